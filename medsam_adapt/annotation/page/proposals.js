"use strict";

// Masks that the server draws: of a box or points, on the other slices, and of a whole scan.

class Proposals {
  constructor(app) {
    this.app = app;
    this.pending = null; // {view, index, box, points} that the model is drawing
    this.proposing = null; // promise of its mask
    this.bases = new Map(); // slice before and after the last proposal there
    this.running = null; // AbortController of a propagation
  }

  addBox(view, box) {
    this.proposing = this.app.attempt(() => this.propose(view, box, []));
    return this.proposing;
  }

  addPoint(view, [column, row], inside) {
    const prompt = this.app.scan.promptOn(this.app.structures.chosen, view.axis, view.index);
    const points = [...(prompt?.points ?? []), [column, row, inside]];
    this.proposing = this.app.attempt(() => this.propose(view, prompt?.box ?? null, points));
    return this.proposing;
  }

  /** The model's mask of a box and points; inside the box it replaces the structure, elsewhere it is added. */
  async propose(view, box, points) {
    if (!this.app.model) return this.app.say("The server was started without a model: use the brush.");
    const { scan } = this.app;
    const label = this.app.structures.chosen;
    const { axis, index, plane } = view;
    this.app.say(`${this.app.model.name} draws ${this.app.structures.nameOf(label)} …`);
    const began = performance.now();
    const image = scan.shown;
    const pending = { view, index, box, points };
    this.pending = pending;
    this.app.display.draw();
    let reply;
    try {
      reply = await requestJson("POST", `${scan.path}/proposal`, { axis, index, image, box, points });
    } finally {
      if (this.pending === pending) this.pending = null;
      this.app.display.draw();
    }
    const key = `${label} ${axis} ${index}`;
    const base = this.baseOf(key, plane, scan.slice(axis, index), box, label, points.length > 0);
    const values = merged(base, fromRuns(reply.mask, base.length), label, this.app.tools.over);
    this.bases.set(key, { base, after: values });
    scan.change(axis, index, values, "model", scan.newStep(), { label, box, points });
    const seconds = (performance.now() - began) / 1000;
    this.app.say(reply.mask.length === 2 && !reply.mask[0] ? "Nothing was found there." : `Drawn in ${seconds.toFixed(2)} s.`);
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
    const { axis, index } = this.app.display.active;
    const limits = { up: { first: index + 1 }, down: { last: index - 1 } }[direction] ?? {};
    if (limits.last < 0) return;
    return this.take("propagation", { axis, image: this.app.scan.shown, ...limits }, "model");
  }

  fill() {
    return this.take("fill", { axis: this.app.display.active.axis }, "interpolation");
  }

  /** Take masks of slices as the server draws them, undone as one. */
  async take(what, body, author) {
    if (this.running) return this.app.say("One after the other: Escape stops the one that is running.");
    const { scan } = this.app;
    const label = this.app.structures.chosen;
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
        const values = merged(current, fromRuns(mask, current.length), label, this.app.tools.over);
        scan.change(body.axis, index, values, author, step);
        this.app.say(`${this.app.structures.nameOf(label)}: slice ${index + 1}, ${++count} drawn …`);
      }
      await scan.send();
    } finally {
      this.running = null;
      byId("stop").hidden = true;
    }
    this.app.say(count ? `${counted(count, "slice")} drawn.` : "No further slice to draw: the structure ends here.");
  }

  /** Have the run label the whole scan; a person's work is replaced only if this person agrees. */
  async segment(workedOn = null) {
    if (!this.app.model?.automatic) return this.app.say("No run labels whole scans yet: Retrain trains one.");
    const { scan } = this.app;
    await scan.send();
    this.app.say(`${this.app.model.automatic} labels the scan …`);
    try {
      const reply = await requestJson("POST", `${scan.path}/segmentation`, { worked_on: workedOn });
      scan.status = reply.status;
    } catch (error) {
      if (error.status !== 409) throw error;
      this.app.say("");
      const choice = await this.choose(`${error.message} Have ${this.app.model.automatic} label it?`);
      return choice && this.segment(choice);
    }
    await scan.reload();
    this.app.say("The scan has a proposal. Undo takes it back.");
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
