"""What tests do on the annotation page in a browser, and what it shows."""

import time

import numpy as np

SHOWN = "typeof app !== 'undefined' && app?.scan"
READY = f"return {SHOWN} && app.scan.isSaved && !app.proposals.running"


def wait(driver, expression=READY, seconds=900):
    """Wait until JavaScript is true; the text of the page if it does not become so."""
    deadline = time.monotonic() + seconds
    while not driver.execute_script(expression):
        assert time.monotonic() < deadline, driver.execute_script("return document.body.innerText")
        time.sleep(0.1)


def drag(driver, *places, release=True):
    """Press the pointer on the axial slice at the first place (column, row), and drag it to the others."""
    from selenium.webdriver import ActionChains

    points = [driver.execute_script("return app.display.views[0].onScreen(...arguments)", *place) for place in places]
    chain = ActionChains(driver, duration=0)
    pointer = chain.w3c_actions.pointer_action
    pointer.move_to_location(*map(round, points[0])).pointer_down()
    for point in points[1:]:
        pointer.move_to_location(*map(round, point))
    if release:
        pointer.pointer_up()
    chain.perform()


def press(driver, *keys):
    from selenium.webdriver import ActionChains

    chain = ActionChains(driver)
    for key in keys[:-1]:
        chain.key_down(key)
    chain.send_keys(keys[-1])
    for key in keys[:-1]:
        chain.key_up(key)
    chain.perform()


def label_in(driver):
    """The label that the page shows, (X, Y, Z) in RAS order."""
    runs, shape = driver.execute_script("return [toRuns(app.scan.label), app.scan.shape]")
    pairs = np.array(runs).reshape(-1, 2)
    return np.repeat(pairs[:, 0], pairs[:, 1]).astype(np.uint8).reshape(shape, order="F")


def grey_at(driver, view, column, row):
    """[red, green, blue] of a pixel of the image in the view of this number, without the label."""
    pixel = "app.display.views[arguments[0]].grey.getContext('2d').getImageData(arguments[1], arguments[2], 1, 1).data"
    return driver.execute_script(f"return [...{pixel}.slice(0, 3)]", view, column, row)
