"use strict";

// One plane of the scan on a canvas: image, label, prompts and the crosshair.

class View {
  constructor(axis, app) {
    this.axis = axis;
    this.app = app;
    this.root = document.querySelector(`[data-plane="${axis}"]`);
    this.canvas = this.root.querySelector("canvas");
    this.grey = document.createElement("canvas");
    this.colours = document.createElement("canvas");
    this.zoom = 1;
    this.pan = [0, 0]; // in pixels of the screen
    new ResizeObserver(() => this.draw()).observe(this.root);
  }

  get plane() {
    return this.app.scan.planes[this.axis];
  }

  get index() {
    return this.app.display.cursor[this.plane.along];
  }

  /** Pixels of the canvas: where the slice is, and how large its pixels are. */
  layout() {
    const { plane, canvas } = this;
    const fit = Math.min(canvas.width / plane.width, canvas.height / plane.height) * this.zoom;
    const width = plane.width * fit;
    const height = plane.height * fit;
    const dense = devicePixelRatio || 1;
    return {
      left: (canvas.width - width) / 2 + this.pan[0] * dense,
      top: (canvas.height - height) / 2 + this.pan[1] * dense,
      across: width / plane.columns,
      down: height / plane.rows,
      width,
      height,
      dense,
    };
  }

  /** [column, row] under the pointer; whole numbers are centres of pixels. */
  place(event) {
    const bounds = this.canvas.getBoundingClientRect();
    const { left, top, across, down, dense } = this.layout();
    return [
      ((event.clientX - bounds.left) * dense - left) / across - 0.5,
      ((event.clientY - bounds.top) * dense - top) / down - 0.5,
    ];
  }

  /** Where the centre of a pixel of the slice is on the screen, for those who drive the page by program. */
  onScreen(column, row) {
    const bounds = this.canvas.getBoundingClientRect();
    const { left, top, across, down, dense } = this.layout();
    return [
      bounds.left + (left + (column + 0.5) * across) / dense,
      bounds.top + (top + (row + 0.5) * down) / dense,
    ];
  }

  draw() {
    const { app, canvas } = this;
    if (!app.scan || !this.root.clientWidth) return;
    const dense = devicePixelRatio || 1;
    canvas.width = Math.round(this.root.clientWidth * dense);
    canvas.height = Math.round(this.root.clientHeight * dense);
    this.paintGrey();
    this.paintColours();
    const { left, top, width, height } = this.layout();
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = true;
    pen.drawImage(this.grey, left, top, width, height);
    pen.imageSmoothingEnabled = false;
    pen.globalAlpha = app.display.opacity;
    pen.drawImage(this.colours, left, top, width, height);
    pen.globalAlpha = 1;
    this.drawCrosshair(pen);
    this.drawPrompts(pen);
    this.root.querySelector(".number").textContent = `${this.axis} ${this.index + 1} / ${this.plane.count}`;
  }

  /** The slice through the window, into a canvas of its size. */
  paintGrey() {
    const { plane, app } = this;
    const [slope, intercept] = app.scan.scale;
    const [low, high] = app.display.window;
    const factor = 255 / Math.max(high - low, 1e-9);
    const values = plane.read(app.scan.image, this.index);
    const picture = new ImageData(plane.columns, plane.rows);
    const pixels = new Uint32Array(picture.data.buffer);
    for (let place = 0; place < values.length; place++) {
      const level = within(Math.round((values[place] * slope + intercept - low) * factor), 256);
      pixels[place] = 0xff000000 | (level << 16) | (level << 8) | level;
    }
    paste(this.grey, picture);
  }

  paintColours() {
    const { plane, app } = this;
    const isPreview = app.tools.preview?.view === this && app.tools.preview.index === this.index;
    const values = isPreview ? app.tools.preview.values : plane.read(app.scan.label, this.index);
    const picture = new ImageData(plane.columns, plane.rows);
    const pixels = new Uint32Array(picture.data.buffer);
    for (let place = 0; place < values.length; place++) {
      if (values[place]) pixels[place] = app.structures.colours[values[place]];
    }
    paste(this.colours, picture);
  }

  drawCrosshair(pen) {
    const { left, top, across, down, width, height, dense } = this.layout();
    const [, column, row] = this.plane.project(this.app.display.cursor);
    const x = left + (column + 0.5) * across;
    const y = top + (row + 0.5) * down;
    const gap = 8 * dense;
    pen.strokeStyle = "rgb(120 220 255 / 0.6)";
    pen.lineWidth = dense;
    pen.setLineDash([]);
    pen.beginPath();
    for (const [x0, y0, x1, y1] of [
      [left, y, x - gap, y], [x + gap, y, left + width, y], [x, top, x, y - gap], [x, y + gap, x, top + height],
    ]) {
      pen.moveTo(x0, y0);
      pen.lineTo(x1, y1);
    }
    pen.stroke();
  }

  /** The box and the points of the current class on this slice, and what is being drawn. */
  drawPrompts(pen) {
    const { app } = this;
    const dense = devicePixelRatio || 1;
    const drawn = app.scan.promptOn(app.structures.chosen, this.axis, this.index);
    const current = app.tools.unfinished?.view === this ? app.tools.unfinished : null;
    const isPending = app.proposals.pending?.view === this && app.proposals.pending.index === this.index;
    const box = current?.box ?? (isPending ? app.proposals.pending : drawn)?.box;
    const { left, top, across, down } = this.layout();
    pen.lineWidth = 1.5 * dense;
    pen.strokeStyle = "#ffffff";
    pen.setLineDash([5 * dense, 3 * dense]);
    if (box) {
      const [x0, x1] = [Math.min(box[0], box[2]), Math.max(box[0], box[2])];
      const [y0, y1] = [Math.min(box[1], box[3]), Math.max(box[1], box[3])];
      pen.strokeRect(left + x0 * across, top + y0 * down, (x1 - x0 + 1) * across, (y1 - y0 + 1) * down);
    }
    pen.setLineDash([]);
    for (const [column, row, inside] of (isPending ? app.proposals.pending : drawn)?.points ?? []) {
      pen.fillStyle = inside ? "#3ddc84" : "#ff5252";
      pen.beginPath();
      pen.arc(left + (column + 0.5) * across, top + (row + 0.5) * down, 4 * dense, 0, 2 * Math.PI);
      pen.fill();
      pen.stroke();
    }
    if (app.tools.pointer?.view === this && ["brush", "eraser"].includes(app.tools.chosen)) {
      const [column, row] = app.tools.pointer.place;
      pen.lineWidth = dense;
      pen.beginPath();
      const [perMmAcross, perMmDown] = app.tools.brushUnit(this.plane);
      const radius = app.tools.brush / 2;
      pen.ellipse(
        left + (column + 0.5) * across, top + (row + 0.5) * down,
        radius * perMmAcross * across, radius * perMmDown * down, 0, 0, 2 * Math.PI,
      );
      pen.stroke();
    }
  }
}

function paste(canvas, picture) {
  if (canvas.width !== picture.width || canvas.height !== picture.height) {
    canvas.width = picture.width;
    canvas.height = picture.height;
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
}
