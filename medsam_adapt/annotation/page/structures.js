"use strict";

// The list of structures: which one is drawn, which are hidden, and their colours.

class Structures {
  constructor(app, classes) {
    this.app = app;
    this.all = classes; // {label, name, colour}
    this.chosen = classes[0].label;
    this.hidden = new Set();
    this.setColours();
    this.fill();
  }

  fill() {
    const rows = this.all.map(({ label, name, colour }, place) => {
      const row = document.createElement("li");
      const choose = document.createElement("button");
      choose.type = "button";
      choose.dataset.label = label;
      const dot = document.createElement("i");
      dot.style.background = colour;
      const text = document.createElement("span");
      text.textContent = name;
      choose.append(dot, text);
      if (place < 9) choose.append(Object.assign(document.createElement("kbd"), { textContent: place + 1 }));
      choose.addEventListener("click", () => this.choose(place));
      const hide = document.createElement("button");
      hide.type = "button";
      hide.dataset.hide = label;
      hide.dataset.name = name;
      hide.addEventListener("click", () => this.hide(label));
      row.append(choose, hide);
      return row;
    });
    byId("classes").replaceChildren(...rows);
    this.showHidden();
    this.choose(0);
  }

  setColours() {
    this.colours = new Uint32Array(256).fill(0xffbbbbbb);
    for (const { label, colour } of this.all) {
      const [red, green, blue] = [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
      this.colours[label] = ((0xff << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    }
    for (const label of this.hidden) this.colours[label] = 0;
  }

  choose(place) {
    if (!this.all[place]) return;
    this.chosen = this.all[place].label;
    for (const button of document.querySelectorAll("[data-label]")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.label) === this.chosen));
    }
    this.app.display.draw();
  }

  nameOf(label) {
    return this.all.find((each) => each.label === label).name;
  }

  next() {
    this.choose((this.all.findIndex((each) => each.label === this.chosen) + 1) % this.all.length);
  }

  hide(label) {
    if (!this.hidden.delete(label)) this.hidden.add(label);
    this.showHidden();
  }

  hideAll() {
    this.hidden = new Set(this.hidden.size ? [] : this.all.map((each) => each.label));
    this.showHidden();
  }

  showHidden() {
    byId("hide-all").firstChild.textContent = this.hidden.size ? "Show all " : "Hide all ";
    for (const button of document.querySelectorAll("[data-hide]")) {
      const word = this.hidden.has(Number(button.dataset.hide)) ? "Show" : "Hide";
      button.textContent = word;
      button.setAttribute("aria-label", `${word} ${button.dataset.name}`);
    }
    this.setColours();
    this.app.display.draw();
  }
}
