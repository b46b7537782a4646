"use strict";

// What of the scan is shown, and how: the three planes, the crosshair, the image of the case, its window and the opacity.

const LOOK = 150; // ms on a slice before the server prepares it

class Display {
  constructor(app) {
    this.app = app;
    this.cursor = [0, 0, 0];
    this.window = [0, 1];
    this.opacity = 0.45;
    this.views = ["axial", "coronal", "sagittal"].map((axis) => new View(axis, app));
    this.activate(this.views[0]);
    this.listen();
  }

  listen() {
    byId("opacity").addEventListener("input", (event) => this.setOpacity(event.target.value / 100));
    byId("image").addEventListener("change", (event) => {
      event.target.blur(); // keys are those of the page again
      this.app.attempt(() => this.showImage(Number(event.target.value)));
    });
    for (const which of ["low", "high"]) {
      byId(which).addEventListener("change", () => this.setWindow(Number(byId("low").value), Number(byId("high").value)));
    }
  }

  /** Show a scan that was opened: its middle, whole slices, and the window of its image. */
  show(scan) {
    this.fillImages();
    this.setWindow(...scan.window);
    this.moveTo(scan.shape.map((count) => Math.floor(count / 2)));
    for (const view of this.views) {
      view.zoom = 1;
      view.pan = [0, 0];
    }
  }

  draw() {
    for (const view of this.views) view.draw();
  }

  /** Keys act on this plane. */
  activate(view) {
    this.active = view;
    for (const each of this.views) each.root.toggleAttribute("data-active", each === view);
  }

  moveTo(voxel) {
    this.cursor = voxel;
    this.draw();
    clearTimeout(this.looking);
    if (this.app.model) this.looking = setTimeout(() => this.app.attempt(() => this.look()), LOOK);
  }

  /** Have the server prepare the slice that is shown. */
  async look() {
    const { axis, index } = this.active;
    const image = this.app.scan.shown;
    if (this.app.model.axes.includes(axis)) await request("POST", `${this.app.scan.path}/look`, { axis, index, image });
  }

  scroll(view, steps) {
    const voxel = [...this.cursor];
    voxel[view.plane.along] = within(voxel[view.plane.along] + steps, view.plane.count);
    this.moveTo(voxel);
  }

  nudge(columns, rows) {
    const view = this.active;
    const [index, column, row] = view.plane.project(this.cursor);
    this.moveTo(view.plane.voxel(index, column + columns, row + rows));
  }

  zoom(view, factor) {
    view.zoom = Math.min(Math.max(view.zoom * factor, 0.5), 20);
    view.draw();
  }

  pan(x, y) {
    this.active.pan = [this.active.pan[0] + x, this.active.pan[1] + y];
    this.active.draw();
  }

  resetView() {
    this.active.zoom = 1;
    this.active.pan = [0, 0];
    this.active.draw();
  }

  nextPlane() {
    const place = (this.views.indexOf(this.active) + 1) % this.views.length;
    this.activate(this.views[place]);
    byId("planes").dataset.large = this.active.axis;
    this.draw();
  }

  setWindow(low, high) {
    if (!(high > low)) return;
    this.window = [low, high];
    this.app.scan.images[this.app.scan.shown].window = this.window;
    byId("low").value = Math.round(low);
    byId("high").value = Math.round(high);
    this.draw();
  }

  scaleWindow(factor) {
    const [low, high] = this.window;
    const [level, half] = [(low + high) / 2, ((high - low) / 2) * factor];
    this.setWindow(level - half, level + half);
  }

  shiftWindow(share) {
    const [low, high] = this.window;
    const step = (high - low) * share;
    this.setWindow(low + step, high + step);
  }

  setOpacity(value) {
    this.opacity = Math.min(Math.max(value, 0), 1);
    byId("opacity").value = Math.round(this.opacity * 100);
    this.draw();
  }

  /** The list of a case's images, where it has several. */
  fillImages() {
    const { images, shown } = this.app.scan;
    byId("image").replaceChildren(...images.map(({ name }, number) => new Option(name, number)));
    byId("image").value = shown;
    byId("images").hidden = images.length < 2;
  }

  /** Show an image of the case, with the window that it had; a model of one image sees this one from now on. */
  async showImage(number) {
    const { scan } = this.app;
    await scan.show(number);
    if (scan !== this.app.scan) return;
    byId("image").value = number;
    this.setWindow(...scan.window);
    this.moveTo(this.cursor);
  }

  nextImage(step) {
    const count = this.app.scan.images.length;
    if (count > 1) return this.showImage((this.app.scan.shown + step + count) % count);
  }
}
