"use strict";

// The page: which scan, structure and tool are chosen, and what the buttons and keys do.

const byId = (id) => document.getElementById(id);
const LOOK = 150; // ms on a slice before the server prepares it
const STATUS = { open: "open", proposed: "draft", labelled: "finished" }; // as the list of scans calls them
const HINTS = {
  box: "Drag a box around the structure.",
  point: "Click inside; with Alt, outside it.",
  brush: "Paint; [ and ] change the size.",
  eraser: "Paint over what is to be removed.",
  navigate: "Click: the other planes follow.",
};

class App {
  constructor(facts) {
    this.scan = null;
    this.cursor = [0, 0, 0];
    this.window = [0, 1];
    this.opacity = 0.45;
    this.brush = 10; // mm across
    this.over = false;
    this.hidden = new Set();
    this.preview = null; // {view, index, values} of a stroke
    this.pending = null; // {view, index, box, points} that the model is drawing
    this.proposing = null; // promise of its mask
    this.bases = new Map(); // slice before and after the last proposal there
    this.running = null; // AbortController of a propagation
    this.classes = facts.classes;
    this.model = facts.model;
    this.label = this.classes[0].label;
    this.views = ["axial", "coronal", "sagittal"].map((axis) => new View(axis, this));
    this.activate(this.views[0]);
    this.tools = new Tools(this);
    this.setColours();
    this.fillClasses();
    this.fillScans(facts.scans);
    this.listen();
    this.setTool(this.model ? "box" : "brush");
    this.showModel(facts.model);
    for (const note of facts.notes) this.say(note, true);
  }

  listen() {
    listenToKeys(this);
    fillHelp(byId("help"));
    const actions = {
      propagate: () => this.propagate("both"), "propagate-up": () => this.propagate("up"),
      "propagate-down": () => this.propagate("down"), fill: () => this.fill(), clear: () => this.clearSlice(),
      undo: () => this.goBack("undo"), redo: () => this.goBack("redo"), finish: () => this.finish(),
      segment: () => this.segment(), "open-help": () => this.help(), stop: () => this.cancel(),
      "hide-all": () => this.hideAll(),
    };
    for (const [id, action] of Object.entries(actions)) byId(id).addEventListener("click", () => this.attempt(action));
    for (const button of document.querySelectorAll("[data-tool]")) {
      button.addEventListener("click", () => this.setTool(button.dataset.tool));
    }
    byId("opacity").addEventListener("input", (event) => this.setOpacity(event.target.value / 100));
    byId("brush").addEventListener("input", (event) => this.setBrush(Number(event.target.value)));
    byId("over").addEventListener("change", (event) => (this.over = event.target.checked));
    byId("image").addEventListener("change", (event) => {
      event.target.blur(); // keys are those of the page again
      this.attempt(() => this.showImage(Number(event.target.value)));
    });
    for (const which of ["low", "high"]) {
      byId(which).addEventListener("change", () => this.setWindow(Number(byId("low").value), Number(byId("high").value)));
    }
    addEventListener("beforeunload", (event) => {
      if (this.scan && !this.scan.isSaved) event.preventDefault();
    });
    setInterval(() => this.attempt(() => this.refreshNotes()), 10000);
  }

  /** Run an action; what goes wrong is shown as a sentence. */
  async attempt(action) {
    try {
      await action();
    } catch (error) {
      if (error.name !== "AbortError") this.say(error.message, true);
    }
  }

  /** Which model draws in boxes, and which run labels whole scans. */
  showModel(model) {
    this.model = model;
    const { name = "no model", automatic } = model ?? {};
    byId("model").textContent = automatic && automatic !== name ? `${name}; whole scans: ${automatic}` : name;
    byId("segment").hidden = !automatic;
  }

  say(text, isProblem = false) {
    byId("message").textContent = text;
    byId("message").classList.toggle("problem", isProblem);
  }

  async refreshNotes() {
    const facts = await requestJson("GET", "/api/session");
    for (const { id, status } of facts.scans) this.showStatus(id, status);
    if (facts.notes.length) this.say(facts.notes.at(-1), true);
  }

  // ------------------------------------------------------------------------------------------------------------ scans

  fillScans(scans) {
    this.scans = scans.map((each) => each.id);
    const items = scans.map(({ id, status }) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.scan = id;
      const name = document.createElement("span");
      name.textContent = id;
      const badge = document.createElement("small");
      badge.className = `status ${status}`;
      badge.textContent = STATUS[status];
      button.append(name, badge);
      button.addEventListener("click", () => this.attempt(() => this.open(id)));
      item.append(button);
      return item;
    });
    byId("scans").replaceChildren(...items);
  }

  showStatus(id, status) {
    const badge = document.querySelector(`[data-scan="${CSS.escape(id)}"] small`);
    badge.textContent = STATUS[status];
    badge.className = `status ${status}`;
    if (id === this.scan?.id) {
      byId("finish").firstChild.textContent = status === "labelled" ? "Reopen as draft " : "Mark as finished ";
    }
  }

  async open(id) {
    this.cancel();
    if (this.scan) await this.scan.send();
    this.say(`Opening ${id} …`);
    const scan = await Scan.open(id, this.scan?.shown);
    this.scan = scan;
    this.fillImages();
    this.bases.clear();
    scan.onChange = () => this.onChange(scan);
    this.setWindow(...scan.window);
    this.moveTo(scan.shape.map((count) => Math.floor(count / 2)));
    for (const view of this.views) {
      view.zoom = 1;
      view.pan = [0, 0];
    }
    for (const button of document.querySelectorAll("[data-scan]")) {
      button.setAttribute("aria-current", String(button.dataset.scan === id));
    }
    document.title = `${id} – medsam-adapt annotate`;
    this.say("");
    this.onChange(scan);
  }

  onChange(scan) {
    if (scan !== this.scan) return;
    byId("saved").textContent = scan.trouble || (scan.isSaved ? "All changes are saved." : "Saving …");
    byId("saved").classList.toggle("problem", scan.trouble !== "");
    this.showStatus(scan.id, scan.status);
    this.draw();
  }

  // ----------------------------------------------------------------------------------------------------------- images

  /** The list of a case's images, where it has several. */
  fillImages() {
    const { images, shown } = this.scan;
    byId("image").replaceChildren(...images.map(({ name }, number) => new Option(name, number)));
    byId("image").value = shown;
    byId("images").hidden = images.length < 2;
  }

  /** Show an image of the case, with the window that it had; a model of one image sees this one from now on. */
  async showImage(number) {
    const { scan } = this;
    await scan.show(number);
    if (scan !== this.scan) return;
    byId("image").value = number;
    this.setWindow(...scan.window);
    this.moveTo(this.cursor);
  }

  nextImage(step) {
    const count = this.scan.images.length;
    if (count > 1) return this.showImage((this.scan.shown + step + count) % count);
  }

  nextScan(step) {
    const place = this.scans.indexOf(this.scan?.id) + step;
    if (this.scans[place]) return this.open(this.scans[place]);
  }

  async finish() {
    await this.scan.send();
    const labelled = this.scan.status !== "labelled";
    const reply = await requestJson("PUT", `${this.scan.path}/status`, { labelled });
    this.scan.status = reply.status;
    this.sayFinished(labelled);
    if (reply.notes.length) this.say(reply.notes.at(-1), true);
    this.onChange(this.scan);
    await rounds.look(); // Retrain has a label more, or less
  }

  /** A structure that was forgotten would be trained as background: the page names it. */
  sayFinished(labelled) {
    if (!labelled) return this.say("The label is a draft again.");
    const missing = this.classes.filter(({ label }) => !this.scan.label.includes(label)).map(({ name }) => name);
    if (!missing.length) return this.say("The label is finished: Retrain learns from it.");
    const isEmpty = missing.length === this.classes.length;
    this.say(`Finished. Not drawn, so Retrain learns that this scan has none: ${missing.join(", ")}.`, isEmpty);
  }

  async save() {
    await this.scan.send();
    await requestJson("POST", "/api/save");
    this.say("Saved.");
  }

  // ---------------------------------------------------------------------------------------------------------- classes

  fillClasses() {
    const rows = this.classes.map(({ label, name, colour }, place) => {
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
      choose.addEventListener("click", () => this.setClass(place));
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
    this.setClass(0);
  }

  setColours() {
    this.colours = new Uint32Array(256).fill(0xffbbbbbb);
    for (const { label, colour } of this.classes) {
      const [red, green, blue] = [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
      this.colours[label] = ((0xff << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    }
    for (const label of this.hidden) this.colours[label] = 0;
  }

  setClass(place) {
    if (!this.classes[place]) return;
    this.label = this.classes[place].label;
    for (const button of document.querySelectorAll("[data-label]")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.label) === this.label));
    }
    this.draw();
  }

  nameOf(label) {
    return this.classes.find((each) => each.label === label).name;
  }

  nextClass() {
    this.setClass((this.classes.findIndex((each) => each.label === this.label) + 1) % this.classes.length);
  }

  hide(label) {
    if (!this.hidden.delete(label)) this.hidden.add(label);
    this.showHidden();
  }

  hideAll() {
    this.hidden = new Set(this.hidden.size ? [] : this.classes.map((each) => each.label));
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
    this.draw();
  }

  // ------------------------------------------------------------------------------------------------------------- view

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
    if (this.model) this.looking = setTimeout(() => this.attempt(() => this.look()), LOOK);
  }

  /** Have the server prepare the slice that is shown. */
  async look() {
    const { axis, index } = this.active;
    const image = this.scan.shown;
    if (this.model.axes.includes(axis)) await request("POST", `${this.scan.path}/look`, { axis, index, image });
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
    this.scan.images[this.scan.shown].window = this.window;
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

  help() {
    byId("help").showModal();
  }

  // ------------------------------------------------------------------------------------------------------------ tools

  setTool(tool) {
    this.tool = tool;
    byId("hint").textContent = HINTS[tool];
    for (const button of document.querySelectorAll("[data-tool]")) {
      button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
    }
    this.draw();
  }

  toggle(name) {
    byId(name).click();
  }

  setBrush(size) {
    this.brush = Math.min(Math.max(size, 0.5), 200);
    byId("brush").value = this.brush;
    byId("brush-size").textContent = `${Number(this.brush.toFixed(1))} mm`;
    this.draw();
  }

  /** Pixels per mm across and down a plane. */
  brushUnit(plane) {
    return [1 / this.scan.spacing[plane.across], 1 / this.scan.spacing[plane.down]];
  }

  /** Whether the current structure may be drawn over a label. */
  mayDraw(label) {
    return this.over || label === 0 || label === this.label;
  }

  /** Use the tool at the crosshair. */
  useTool(inside) {
    const view = this.active;
    const [, column, row] = view.plane.project(this.cursor);
    if (this.tool === "box") this.tools.cornerAt(view, [column, row]);
    else if (this.tool === "point") this.addPoint(view, [column, row], inside);
    else if (this.tool !== "navigate") this.tools.touch(view, [column, row]);
  }

  cancel() {
    this.running?.abort();
    this.tools.cancel();
    if (this.scan) this.draw();
  }

  clearSlice() {
    const { axis, index } = this.active;
    const values = this.scan.slice(axis, index).map((value) => (value === this.label ? 0 : value));
    this.scan.change(axis, index, values, "person", this.scan.newStep());
  }

  async goBack(which) {
    const changed = await this.scan.goBack(which);
    if (!changed) this.say(`There is nothing to ${which}.`);
  }

  // -------------------------------------------------------------------------------------------------------- proposals

  addBox(view, box) {
    this.proposing = this.attempt(() => this.propose(view, box, []));
    return this.proposing;
  }

  addPoint(view, [column, row], inside) {
    const prompt = this.scan.promptOn(this.label, view.axis, view.index);
    const points = [...(prompt?.points ?? []), [column, row, inside]];
    this.proposing = this.attempt(() => this.propose(view, prompt?.box ?? null, points));
    return this.proposing;
  }

  /** The model's mask of a box and points; inside the box it replaces the structure, elsewhere it is added. */
  async propose(view, box, points) {
    if (!this.model) return this.say("The server was started without a model: use the brush.");
    const { scan, label } = this;
    const { axis, index, plane } = view;
    this.say(`${this.model.name} draws ${this.nameOf(label)} …`);
    const began = performance.now();
    const image = scan.shown;
    const pending = { view, index, box, points };
    this.pending = pending;
    this.draw();
    let reply;
    try {
      reply = await requestJson("POST", `${scan.path}/proposal`, { axis, index, image, box, points });
    } finally {
      if (this.pending === pending) this.pending = null;
      this.draw();
    }
    const key = `${label} ${axis} ${index}`;
    const base = this.baseOf(key, plane, scan.slice(axis, index), box, label, points.length > 0);
    const values = merged(base, fromRuns(reply.mask, base.length), label, this.over);
    this.bases.set(key, { base, after: values });
    scan.change(axis, index, values, "model", scan.newStep(), { label, box, points });
    const seconds = (performance.now() - began) / 1000;
    this.say(reply.mask.length === 2 && !reply.mask[0] ? "Nothing was found there." : `Drawn in ${seconds.toFixed(2)} s.`);
  }

  /** The slice without an earlier proposal of the same prompt, or without the structure inside a new box. */
  baseOf(key, plane, current, box, label, isRefined) {
    const known = this.bases.get(key);
    if (isRefined && known && known.after.every((value, place) => value === current[place])) return known.base;
    const base = current.slice();
    if (!box) return base;
    for (let row = box[1]; row <= box[3]; row++) {
      for (let column = box[0]; column <= box[2]; column++) {
        const place = row * plane.columns + column;
        if (base[place] === label) base[place] = 0;
      }
    }
    return base;
  }

  propagate(direction) {
    const { axis, index } = this.active;
    const limits = { up: { first: index + 1 }, down: { last: index - 1 } }[direction] ?? {};
    if (limits.last < 0) return;
    return this.take("propagation", { axis, image: this.scan.shown, ...limits }, "model");
  }

  fill() {
    return this.take("fill", { axis: this.active.axis }, "interpolation");
  }

  /** Take masks of slices as the server draws them, undone as one. */
  async take(what, body, author) {
    if (this.running) return this.say("One after the other: Escape stops the one that is running.");
    const { scan, label } = this;
    let count = 0;
    this.running = new AbortController();
    const { signal } = this.running;
    byId("stop").hidden = false;
    try {
      await this.proposing; // of a box that was just drawn
      await scan.send();
      signal.throwIfAborted();
      const step = scan.newStep();
      for await (const { index, mask } of requestLines(`${scan.path}/${what}`, { ...body, label }, signal)) {
        const current = scan.slice(body.axis, index).map((value) => (value === label ? 0 : value));
        const values = merged(current, fromRuns(mask, current.length), label, this.over);
        scan.change(body.axis, index, values, author, step);
        this.say(`${this.nameOf(label)}: slice ${index + 1}, ${++count} drawn …`);
      }
      await scan.send();
    } finally {
      this.running = null;
      byId("stop").hidden = true;
    }
    this.say(count ? `${count} slices drawn.` : "No further slice to draw: the structure ends here.");
  }

  /** Have the run label the whole scan; a person's work is replaced only if this person agrees. */
  async segment(workedOn = null) {
    if (!this.model?.automatic) return this.say("No run labels whole scans yet: Retrain trains one.");
    const { scan } = this;
    await scan.send();
    this.say(`${this.model.automatic} labels the scan …`);
    try {
      const reply = await requestJson("POST", `${scan.path}/segmentation`, { worked_on: workedOn });
      scan.status = reply.status;
    } catch (error) {
      if (error.status !== 409) throw error;
      this.say("");
      const choice = await this.choose(`${error.message} Have ${this.model.automatic} label it?`);
      return choice && this.segment(choice);
    }
    await scan.reload();
    this.say("The scan has a proposal. Undo takes it back.");
  }

  /** What the person chooses in a dialog; empty if nothing. */
  choose(text) {
    const dialog = byId("ask");
    byId("ask-text").textContent = text;
    dialog.returnValue = "";
    dialog.showModal();
    return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
  }
}

/** `base` with a label where the mask is; other labels stay unless it may be drawn over them. */
function merged(base, mask, label, over) {
  return base.map((value, place) => (mask[place] && (over || value === 0) ? label : value));
}

let app = null;
requestJson("GET", "/api/session").then(
  (facts) => {
    app = new App(facts);
    const first = facts.scans.find((each) => each.status !== "labelled") ?? facts.scans[0];
    app.attempt(() => app.open(first.id));
  },
  (error) => (byId("message").textContent = error.message),
);
