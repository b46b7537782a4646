"use strict";

// Every function of the page by its key; the help overlay lists this table.

const KEYS = [
  ["Tools", [
    ["b", "Box: drag around the structure, or Enter at two corners", (app) => app.tools.choose("box")],
    ["p", "Points: click inside; with Alt or Shift outside", (app) => app.tools.choose("point")],
    ["d", "Brush", (app) => app.tools.choose("brush")],
    ["e", "Eraser", (app) => app.tools.choose("eraser")],
    ["v", "Move the crosshair", (app) => app.tools.choose("navigate")],
    ["Enter", "Use the tool at the crosshair", (app) => app.tools.use(true)],
    ["Shift+Enter", "Point outside the structure at the crosshair", (app) => app.tools.use(false)],
    ["[", "Smaller brush", (app) => app.tools.setBrush(app.tools.brush / 1.25)],
    ["]", "Larger brush", (app) => app.tools.setBrush(app.tools.brush * 1.25)],
    ["k", "Draw over other structures, or keep them", (app) => app.tools.toggleOver()],
    ["Escape", "Cancel a box or a propagation", (app) => app.cancel()],
  ]],
  ["Structure", [
    ["1", "Structure of this number", (app) => app.structures.choose(0)],
    ["c", "Next structure", (app) => app.structures.next()],
    ["g", "Propagate up and down", (app) => app.proposals.propagate("both")],
    [".", "Propagate up from this slice", (app) => app.proposals.propagate("up")],
    [",", "Propagate down from this slice", (app) => app.proposals.propagate("down")],
    ["f", "Fill between drawn slices", (app) => app.proposals.fill()],
    ["Delete", "Clear the structure on this slice", (app) => app.clearSlice()],
    ["Ctrl+z", "Undo", (app) => app.goBack("undo")],
    ["Ctrl+y", "Redo", (app) => app.goBack("redo")],
    ["a", "Label the whole scan with the run", (app) => app.proposals.segment()],
  ]],
  ["View", [
    ["PageUp", "Next slice up (Shift: ten)", (app) => app.display.scroll(app.display.active, 1)],
    ["PageDown", "Next slice down (Shift: ten)", (app) => app.display.scroll(app.display.active, -1)],
    ["Shift+PageUp", "", (app) => app.display.scroll(app.display.active, 10)],
    ["Shift+PageDown", "", (app) => app.display.scroll(app.display.active, -10)],
    ["Home", "First slice", (app) => app.display.scroll(app.display.active, -1e6)],
    ["End", "Last slice", (app) => app.display.scroll(app.display.active, 1e6)],
    ["ArrowLeft", "Move the crosshair (Shift: ten pixels)", (app) => app.display.nudge(-1, 0)],
    ["ArrowRight", "", (app) => app.display.nudge(1, 0)],
    ["ArrowUp", "", (app) => app.display.nudge(0, -1)],
    ["ArrowDown", "", (app) => app.display.nudge(0, 1)],
    ["Shift+ArrowLeft", "", (app) => app.display.nudge(-10, 0)],
    ["Shift+ArrowRight", "", (app) => app.display.nudge(10, 0)],
    ["Shift+ArrowUp", "", (app) => app.display.nudge(0, -10)],
    ["Shift+ArrowDown", "", (app) => app.display.nudge(0, 10)],
    ["Alt+ArrowLeft", "Move the picture", (app) => app.display.pan(40, 0)],
    ["Alt+ArrowRight", "", (app) => app.display.pan(-40, 0)],
    ["Alt+ArrowUp", "", (app) => app.display.pan(0, 40)],
    ["Alt+ArrowDown", "", (app) => app.display.pan(0, -40)],
    ["+", "Zoom in", (app) => app.display.zoom(app.display.active, 1.25)],
    ["-", "Zoom out", (app) => app.display.zoom(app.display.active, 0.8)],
    ["0", "Whole slice", (app) => app.display.resetView()],
    ["m", "Next plane in the large view", (app) => app.display.nextPlane()],
    ["w", "Wider window (Shift: narrower)", (app) => app.display.scaleWindow(1.15)],
    ["Shift+w", "", (app) => app.display.scaleWindow(1 / 1.15)],
    ["l", "Window up, darker (Shift: down)", (app) => app.display.shiftWindow(0.05)],
    ["Shift+l", "", (app) => app.display.shiftWindow(-0.05)],
    ["o", "More opaque (Shift: less)", (app) => app.display.setOpacity(app.display.opacity + 0.1)],
    ["Shift+o", "", (app) => app.display.setOpacity(app.display.opacity - 0.1)],
    ["i", "Next image of the case (Shift: previous)", (app) => app.display.nextImage(1)],
    ["Shift+i", "", (app) => app.display.nextImage(-1)],
    ["h", "Hide or show this structure (Shift: all)", (app) => app.structures.hide(app.structures.chosen)],
    ["Shift+h", "", (app) => app.structures.hideAll()],
  ]],
  ["Scans", [
    ["n", "Next scan (Shift: previous)", (app) => app.nextScan(1)],
    ["Shift+n", "", (app) => app.nextScan(-1)],
    ["Ctrl+Enter", "The label is finished, or not", (app) => app.finish()],
    ["Ctrl+s", "Save now (it is saved while you draw)", (app) => app.save()],
    ["?", "This help", (app) => app.help()],
  ]],
];

const NAMES = { 1: "1 – 9", ArrowLeft: "Arrows", "Alt+ArrowLeft": "Alt+Arrows", Escape: "Esc", Delete: "Del" }; // in the help

const ACTIONS = new Map(KEYS.flatMap(([, rows]) => rows.map(([key, , action]) => [key, action])));
for (let number = 2; number <= 9; number++) ACTIONS.set(String(number), (app) => app.structures.choose(number - 1));
ACTIONS.set("Ctrl+Shift+z", (app) => app.goBack("redo"));
ACTIONS.set("=", ACTIONS.get("+"));
ACTIONS.set("Backspace", ACTIONS.get("Delete"));

function nameOf(event) {
  const isLetter = /^[a-z]$/i.test(event.key);
  const isNamed = event.key.length > 1;
  const shift = event.shiftKey && (isLetter || isNamed) ? "Shift+" : "";
  const control = event.ctrlKey || event.metaKey ? "Ctrl+" : "";
  return control + (event.altKey ? "Alt+" : "") + shift + (isLetter ? event.key.toLowerCase() : event.key);
}

function listenToKeys(app) {
  document.addEventListener("keydown", (event) => {
    const target = event.target;
    if (document.querySelector("dialog[open]")) return;
    const name = nameOf(event);
    if (target.matches("input[type=number]") && !name.startsWith("Ctrl+")) return;
    if (target.matches("button, input") && name === "Enter") return;
    if (target.matches("input") && /^(Shift\+)?(Arrow|Home|End|Page)/.test(name)) return;
    if (target.matches("select") && !name.startsWith("Ctrl+")) return;
    const action = ACTIONS.get(name);
    if (!action) return;
    event.preventDefault();
    app.attempt(() => action(app));
  });
}

function fillHelp(dialog) {
  for (const [title, rows] of KEYS) {
    const section = document.createElement("section");
    const heading = document.createElement("h3");
    heading.textContent = title;
    const list = document.createElement("dl");
    for (const [key, meaning] of rows) {
      if (!meaning) continue;
      const term = document.createElement("dt");
      term.append(document.createElement("kbd"));
      term.firstChild.textContent = NAMES[key] ?? key.replace(/(^|\+)[a-z]$/, (letter) => letter.toUpperCase());
      const text = document.createElement("dd");
      text.textContent = meaning;
      list.append(term, text);
    }
    section.append(heading, list);
    dialog.querySelector("#key-list").append(section);
  }
}
