"use strict";

// The theme button, and the slice viewer. Everything comes from the JSON in this page.

const byId = (id) => document.getElementById(id);

// ------------------------------------------------------------------------------------------------------------- theme

const prefersDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : prefersDark.matches;
}

function nameThemeButton() {
  byId("theme").textContent = isDark() ? "Light theme" : "Dark theme";
}

function onTheme() {
  nameThemeButton();
  viewer?.draw(); // the frame above the slider has the colour of the text
}

byId("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  onTheme();
});
prefersDark.addEventListener("change", onTheme);
nameThemeButton();

// ---------------------------------------------------------------------------------------------------------- outlines

// (columns, rows) in half pixels; contours.py has the same list.
const STEPS = [[2, 0], [1, 1], [0, 2], [-1, 1], [-2, 0], [-1, -1], [0, -2], [1, -1]];

/** "x,y,digits;…" as a path in pixels of the slice. */
function pathOf(outlines) {
  const path = new Path2D();
  for (const line of outlines.split(";")) {
    const [startX, startY, digits] = line.split(",");
    let x = Number(startX);
    let y = Number(startY);
    path.moveTo(x / 2 + 0.5, y / 2 + 0.5);
    for (const digit of digits) {
      x += STEPS[digit][0];
      y += STEPS[digit][1];
      path.lineTo(x / 2 + 0.5, y / 2 + 0.5);
    }
    path.closePath();
  }
  return path;
}

// ------------------------------------------------------------------------------------------------------------ viewer

class Viewer {
  constructor(data) {
    this.data = data;
    this.hidden = new Set(); // numbers of the classes that are switched off
    this.wheel = 0; // pixels of wheel movement that made no step yet
    this.image = 0; // number of the image that is shown, where a case has several
    this.fillCases();
    this.fillSides();
    this.listen();
    this.show(data.cases[0].id);
  }

  fillCases() {
    for (const each of this.data.cases) {
      byId("case").append(new Option(`${each.role}: ${each.id}`, each.id));
    }
  }

  /** The letters of a patient's sides. */
  fillSides() {
    ["left", "right", "above", "below"].forEach((side, index) => {
      document.querySelector(`.side.${side}`).textContent = this.data.letters[index] ?? "";
    });
  }

  listen() {
    const stage = byId("stage");
    byId("case").addEventListener("change", (event) => this.show(event.target.value));
    byId("image").addEventListener("change", (event) => this.showImage(Number(event.target.value)));
    byId("slider").addEventListener("input", (event) => this.goTo(Number(event.target.value)));
    for (const id of ["prediction", "reference"]) byId(id).addEventListener("change", () => this.draw());
    byId("all-classes").addEventListener("click", () => {
      const all = this.data.classes.map((_, index) => index + 1);
      this.hidden = new Set(this.hidden.size ? [] : all);
      this.fillClasses();
      this.draw();
    });
    stage.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    stage.addEventListener("keydown", (event) => this.onKey(event));
    new ResizeObserver(() => this.draw()).observe(byId("frame"));
    for (const button of document.querySelectorAll("[data-show]")) {
      button.addEventListener("click", () => {
        this.show(button.dataset.show);
        byId("viewer").scrollIntoView({ block: "nearest" });
        stage.focus({ preventScroll: true });
      });
    }
  }

  show(id) {
    this.case = this.data.cases.find((each) => each.id === id);
    byId("case").value = id;
    byId("case").title = id; // the list may cut off a long name
    byId("slider").max = this.case.numbers.length - 1;
    this.loaded = new Map();
    this.fillImages();
    this.fillClasses();
    this.goTo(this.case.start);
  }

  /** The list of a case's images, where it has several; the one that was shown stays. */
  fillImages() {
    const { images } = this.case;
    byId("image").replaceChildren(...images.map((name, index) => new Option(name, index)));
    for (const node of [byId("image"), byId("image-key"), document.querySelector("label[for=image]")]) {
      node.hidden = images.length < 2;
    }
    this.showImage(Math.min(this.image, this.case.sheets.length - 1));
  }

  /** Show another image of the case on the same slice, under the same outlines. */
  showImage(index) {
    this.image = index;
    if (this.case.images.length) byId("image").value = index;
    if (!this.loaded.has(index)) this.loaded.set(index, this.case.sheets[index].map((source) => this.load(source)));
    this.sheets = this.loaded.get(index);
    if (this.index !== undefined) this.goTo(this.index);
  }

  load(source) {
    const image = new Image();
    image.onload = () => this.draw();
    image.src = source;
    return image;
  }

  /** A box to tick for each class, with its score in this case. */
  fillClasses() {
    const boxes = this.data.classes.map(({ name }, index) => {
      const number = index + 1;
      const label = document.createElement("label");
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = !this.hidden.has(number);
      box.addEventListener("change", () => {
        if (box.checked) this.hidden.delete(number);
        else this.hidden.add(number);
        this.draw();
      });
      const dot = document.createElement("i");
      dot.className = `swatch c${number}`;
      const text = document.createElement("span");
      text.textContent = name;
      text.title = name; // for a long name that is cut off
      const score = document.createElement("b");
      const dsc = this.case.dsc[index];
      score.textContent = dsc === null ? "–" : dsc.toFixed(3);
      label.append(box, dot, text, score);
      return label;
    });
    byId("classes").replaceChildren(...boxes);
  }

  goTo(index) {
    this.index = Math.min(Math.max(index, 0), this.case.numbers.length - 1);
    byId("slider").value = this.index;
    const place = `${this.data.axis} slice ${this.case.numbers[this.index]} of ${this.case.slices}`;
    byId("number").textContent = `${this.case.numbers[this.index]} / ${this.case.slices}`;
    byId("slider").setAttribute("aria-valuetext", place);
    const image = this.case.images[this.image];
    byId("slice").setAttribute("aria-label", `${place} of case ${this.case.id}${image ? `, ${image}` : ""}`);
    this.draw();
  }

  onWheel(event) {
    event.preventDefault();
    this.wheel += event.deltaMode === WheelEvent.DOM_DELTA_LINE ? event.deltaY * 30 : event.deltaY;
    const steps = Math.trunc(this.wheel / 30); // a notch of a mouse goes a few slices in a long volume, one in a short
    if (!steps) return;
    this.wheel -= steps * 30;
    const most = Math.max(1, Math.round(this.case.numbers.length / 50));
    this.goTo(this.index + Math.max(-most, Math.min(most, steps)));
  }

  onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const last = this.case.numbers.length - 1;
    const places = {
      ArrowUp: this.index - 1, ArrowLeft: this.index - 1, ArrowDown: this.index + 1, ArrowRight: this.index + 1,
      PageUp: this.index - 10, PageDown: this.index + 10, Home: 0, End: last,
    };
    const toggles = { p: "prediction", r: "reference" };
    if (event.key in places) this.goTo(places[event.key]);
    else if (event.key.toLowerCase() === "i") this.showImage((this.image + 1) % this.case.sheets.length);
    else if (event.key.toLowerCase() in toggles) byId(toggles[event.key.toLowerCase()]).click();
    else return;
    event.preventDefault();
  }

  draw() {
    const canvas = byId("slice");
    const { width, height, perSheet } = this.case;
    const frame = byId("frame");
    const fit = Math.min(frame.clientWidth / width, frame.clientHeight / height);
    const dense = devicePixelRatio || 1;
    canvas.style.width = `${width * fit}px`;
    canvas.style.height = `${height * fit}px`;
    canvas.width = Math.round(width * fit * dense);
    canvas.height = Math.round(height * fit * dense);
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    const sheet = this.sheets[Math.floor(this.index / perSheet)];
    if (sheet.complete && sheet.naturalWidth) {
      const top = (this.index % perSheet) * height;
      pen.drawImage(sheet, 0, top, width, height, 0, 0, canvas.width, canvas.height);
    }
    const scale = canvas.width / width;
    pen.scale(scale, canvas.height / height);
    if (byId("reference").checked) this.outline(pen, this.case.reference[this.index], dense / scale, true);
    if (byId("prediction").checked) this.outline(pen, this.case.prediction[this.index], dense / scale, false);
    this.drawProfile(dense);
  }

  /** Outlines of the classes that are switched on; `pixel` is a pixel of the screen in pixels of the slice. */
  outline(pen, outlines, pixel, dashed) {
    pen.lineJoin = "round";
    for (const [number, lines] of Object.entries(outlines)) {
      if (this.hidden.has(Number(number))) continue;
      const path = pathOf(lines);
      pen.setLineDash([]);
      pen.strokeStyle = "rgb(0 0 0 / 0.55)"; // a dark edge, for structures that are as bright as their colour
      pen.lineWidth = 3.5 * pixel;
      if (!dashed) pen.stroke(path);
      pen.setLineDash(dashed ? [5 * pixel, 4 * pixel] : []);
      pen.strokeStyle = this.data.classes[number - 1].colour;
      pen.lineWidth = (dashed ? 1.5 : 2) * pixel;
      pen.stroke(path);
    }
  }

  /** Above the slider: a lane for each class, over the slices that hold it; the reference's are the lower half. */
  drawProfile(dense) {
    const canvas = byId("profile");
    canvas.width = Math.round(canvas.clientWidth * dense);
    canvas.height = Math.round(canvas.clientHeight * dense);
    const pen = canvas.getContext("2d");
    const row = canvas.height / 2;
    const count = this.case.numbers.length;
    const step = canvas.width / count;
    const lane = (row - 3 * dense) / this.data.classes.length;
    [this.case.prediction, this.case.reference].forEach((slices, which) => {
      slices.forEach((outlines, index) => {
        for (const number of Object.keys(outlines)) {
          if (this.hidden.has(Number(number))) continue;
          pen.fillStyle = this.data.classes[number - 1].colour;
          const top = which * (row + dense) + dense + (number - 1) * lane;
          pen.fillRect(Math.floor(index * step), top, Math.ceil(step), Math.max(1, lane - dense / 2));
        }
      });
    });
    pen.strokeStyle = getComputedStyle(canvas).color;
    pen.lineWidth = 2 * dense;
    pen.strokeRect(this.index * step, 0, Math.max(2, step), canvas.height);
  }
}

const data = JSON.parse(byId("viewer-data").textContent);
const viewer = data.cases.length ? new Viewer(data) : null;
