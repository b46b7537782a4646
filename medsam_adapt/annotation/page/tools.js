"use strict";

// What the pointer does on a plane: the tool that is chosen, and moving, zooming and windowing with its other buttons.

const STROKE = 1000; // ms after which what is drawn of a stroke is saved
const SMALLEST_BOX = 2; // pixels of the slice
const HINTS = {
  box: "Drag a box around the structure.",
  point: "Click inside; with Alt, outside it.",
  brush: "Paint; [ and ] change the size.",
  eraser: "Paint over what is to be removed.",
  navigate: "Click: the other planes follow.",
};

class Tools {
  constructor(app) {
    this.app = app;
    this.brush = 10; // mm across
    this.over = false; // draw over other structures
    this.preview = null; // {view, index, values} of a stroke
    this.unfinished = null; // {view, box} while a box is drawn
    this.pointer = null; // {view, place} under which the brush is shown
    this.drag = null;
    for (const view of app.display.views) this.listenOn(view);
    this.listen();
  }

  listen() {
    for (const button of document.querySelectorAll("[data-tool]")) {
      button.addEventListener("click", () => this.choose(button.dataset.tool));
    }
    byId("brush").addEventListener("input", (event) => this.setBrush(Number(event.target.value)));
    byId("over").addEventListener("change", (event) => (this.over = event.target.checked));
  }

  choose(tool) {
    this.chosen = tool;
    byId("hint").textContent = HINTS[tool];
    for (const button of document.querySelectorAll("[data-tool]")) {
      button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
    }
    this.app.display.draw();
  }

  toggleOver() {
    byId("over").click();
  }

  setBrush(size) {
    this.brush = Math.min(Math.max(size, 0.5), 200);
    byId("brush").value = this.brush;
    byId("brush-size").textContent = `${Number(this.brush.toFixed(1))} mm`;
    this.app.display.draw();
  }

  /** Pixels per mm across and down a plane. */
  brushUnit(plane) {
    return [1 / this.app.scan.spacing[plane.across], 1 / this.app.scan.spacing[plane.down]];
  }

  /** Whether the current structure may be drawn over a label. */
  mayDraw(label) {
    return this.over || label === 0 || label === this.app.structures.chosen;
  }

  /** Use the tool at the crosshair. */
  use(inside) {
    const view = this.app.display.active;
    const [, column, row] = view.plane.project(this.app.display.cursor);
    if (this.chosen === "box") this.cornerAt(view, [column, row]);
    else if (this.chosen === "point") this.app.proposals.addPoint(view, [column, row], inside);
    else if (this.chosen !== "navigate") this.touch(view, [column, row]);
  }

  listenOn(view) {
    const { canvas, root } = view;
    root.addEventListener("focusin", () => this.app.display.activate(view));
    canvas.addEventListener("pointerdown", (event) => this.onDown(view, event));
    canvas.addEventListener("pointermove", (event) => this.onMove(view, event));
    canvas.addEventListener("pointerup", (event) => this.onUp(view, event));
    canvas.addEventListener("pointercancel", (event) => this.onUp(view, event));
    canvas.addEventListener("pointerleave", () => {
      this.pointer = null;
      view.draw();
    });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.onWheel(view, event), { passive: false });
  }

  onDown(view, event) {
    const { app } = this;
    if (!app.scan || this.drag) return;
    event.preventDefault();
    view.root.focus({ preventScroll: true });
    view.canvas.setPointerCapture(event.pointerId);
    app.display.activate(view);
    const place = view.place(event);
    const start = { view, x: event.clientX, y: event.clientY };
    if (event.button === 2) this.drag = { ...start, kind: "window", window: [...app.display.window] };
    else if (event.button === 1 || event.ctrlKey) this.drag = { ...start, kind: "pan", pan: [...view.pan] };
    else this.begin(view, place, event, start);
  }

  begin(view, place, event, start) {
    const { app } = this;
    if (this.chosen === "box") {
      this.drag = { ...start, kind: "box" };
      this.unfinished = { view, box: [...place, ...place] };
    } else if (this.chosen === "point") {
      app.proposals.addPoint(view, place, !(event.altKey || event.shiftKey));
    } else if (this.chosen === "brush" || this.chosen === "eraser") {
      this.drag = { ...start, kind: "stroke", last: place, step: app.scan.newStep(), index: view.index };
      this.stroke(view, place);
    } else {
      this.drag = { ...start, kind: "navigate" };
      app.display.moveTo(view.plane.voxel(view.index, ...place));
    }
  }

  onMove(view, event) {
    const { app, drag } = this;
    if (!app.scan) return;
    const place = view.place(event);
    this.pointer = { view, place };
    const [x, y] = [event.clientX - (drag?.x ?? 0), event.clientY - (drag?.y ?? 0)];
    if (!drag) view.draw();
    else if (drag.kind === "box") {
      this.unfinished.box.splice(2, 2, ...place);
      view.draw();
    } else if (drag.kind === "stroke") this.stroke(view, place);
    else if (drag.kind === "navigate") app.display.moveTo(view.plane.voxel(view.index, ...place));
    else if (drag.kind === "pan") {
      view.pan = [drag.pan[0] + x, drag.pan[1] + y];
      view.draw();
    } else {
      const [low, high] = drag.window;
      const scale = (high - low) / 300;
      const width = Math.max((high - low) + x * scale, (high - low) / 100);
      const level = (low + high) / 2 + y * scale;
      app.display.setWindow(level - width / 2, level + width / 2);
    }
  }

  onUp(view, event) {
    const { app, drag } = this;
    if (!drag) return;
    this.drag = null;
    if (view.canvas.hasPointerCapture(event.pointerId)) view.canvas.releasePointerCapture(event.pointerId);
    if (drag.kind === "box") this.finishBox();
    if (drag.kind === "stroke") this.saveStroke(view, drag);
  }

  /** Have the model draw what is in the box. */
  finishBox() {
    const { view, box } = this.unfinished;
    this.unfinished = null;
    const limits = [view.plane.columns, view.plane.rows, view.plane.columns, view.plane.rows];
    const sides = box.map((side, which) => within(Math.round(side), limits[which]));
    const [x0, x1] = [Math.min(sides[0], sides[2]), Math.max(sides[0], sides[2])];
    const [y0, y1] = [Math.min(sides[1], sides[3]), Math.max(sides[1], sides[3])];
    if (x1 - x0 >= SMALLEST_BOX && y1 - y0 >= SMALLEST_BOX) this.app.proposals.addBox(view, [x0, y0, x1, y1]);
    else view.draw();
  }

  /** Corners of a box with the keyboard: the first one, then the opposite one. */
  cornerAt(view, place) {
    if (this.unfinished?.view !== view) {
      this.unfinished = { view, box: [...place, ...place] };
      view.draw();
    } else {
      this.unfinished.box.splice(2, 2, ...place);
      this.finishBox();
    }
  }

  cancel() {
    this.unfinished = null;
    clearTimeout(this.drag?.timer);
    this.drag = null;
    this.preview = null;
  }

  /** Paint from the last place of the stroke to this one. */
  stroke(view, place) {
    const { app, drag } = this;
    if (drag.index !== view.index) {
      this.saveStroke(view, drag); // the slice was left during the stroke, which goes on here
      Object.assign(drag, { index: view.index, last: place });
    }
    this.preview ??= { view, index: view.index, values: app.scan.slice(view.axis, view.index) };
    const { values } = this.preview;
    const steps = Math.max(1, Math.ceil(2 * Math.hypot(place[0] - drag.last[0], place[1] - drag.last[1])));
    for (let step = 0; step <= steps; step++) {
      const share = step / steps;
      const at = [0, 1].map((each) => drag.last[each] + share * (place[each] - drag.last[each]));
      this.disk(view, values, at);
    }
    drag.last = place;
    drag.timer ??= setTimeout(() => this.savePart(view, drag), STROKE);
    view.draw();
  }

  /** Save what is drawn of a stroke, which goes on. */
  savePart(view, drag) {
    drag.timer = null;
    if (this.drag === drag) this.app.scan.change(view.axis, drag.index, this.preview.values.slice(), "person", drag.step);
  }

  saveStroke(view, drag) {
    clearTimeout(drag.timer);
    drag.timer = null;
    const { preview } = this;
    this.preview = null;
    if (preview) this.app.scan.change(view.axis, drag.index, preview.values, "person", drag.step);
  }

  /** One touch of brush or eraser with the keyboard. */
  touch(view, place) {
    const values = this.app.scan.slice(view.axis, view.index);
    this.disk(view, values, place);
    this.app.scan.change(view.axis, view.index, values, "person", this.app.scan.newStep());
  }

  disk(view, values, [column, row]) {
    const { plane } = view;
    const label = this.app.structures.chosen;
    const [across, down] = this.brushUnit(plane).map((unit) => Math.max((this.brush / 2) * unit, 0.5));
    const erase = this.chosen === "eraser";
    for (let y = Math.ceil(row - down); y <= row + down; y++) {
      for (let x = Math.ceil(column - across); x <= column + across; x++) {
        if (x < 0 || y < 0 || x >= plane.columns || y >= plane.rows) continue;
        if (((x - column) / across) ** 2 + ((y - row) / down) ** 2 > 1) continue;
        const place = y * plane.columns + x;
        if (erase && values[place] === label) values[place] = 0;
        else if (!erase && this.mayDraw(values[place])) values[place] = label;
      }
    }
  }

  onWheel(view, event) {
    event.preventDefault();
    this.app.display.activate(view);
    if (event.ctrlKey) this.app.display.zoom(view, event.deltaY < 0 ? 1.15 : 1 / 1.15);
    else if (event.deltaY) this.app.display.scroll(view, event.deltaY > 0 ? -1 : 1);
  }
}
