"use strict";

// One scan with its label. Every change goes to the server at once and in order; what did not arrive is sent again.

const RETRY = 1000; // ms

class Scan {
  static async open(id, shown = 0) {
    const path = `/api/scans/${encodeURIComponent(id)}`;
    const facts = await requestJson("GET", path);
    const scan = new Scan(path, facts);
    await scan.show(Math.min(shown, scan.images.length - 1));
    await scan.loadLabel();
    return scan;
  }

  constructor(path, facts) {
    Object.assign(this, { path, id: facts.id, shape: facts.shape, spacing: facts.spacing });
    this.status = facts.status;
    this.images = facts.images; // {name, slope, intercept, window}, and the grey values of those that were shown
    this.planes = Object.fromEntries(
      Object.keys(DIMENSION).map((axis) => [axis, new Plane(axis, facts.shape, facts.spacing)]),
    );
    this.step = Date.now(); // number of the last change: those of an earlier page are smaller
    this.queue = [];
    this.sending = null;
    this.trouble = "";
    this.onChange = () => {};
    this.takePrompts(facts.prompts);
  }

  /** Show another image of the case: `image` has its grey values, `scale` what they mean, `window` what is shown. */
  async show(number) {
    const chosen = this.images[number];
    chosen.values ??= new Int16Array(await (await request("GET", `${this.path}/image?number=${number}`)).arrayBuffer());
    this.shown = number;
    this.image = chosen.values;
    this.scale = [chosen.slope, chosen.intercept];
    this.window = chosen.window;
  }

  async loadLabel() {
    const response = await request("GET", `${this.path}/label`);
    this.version = Number(response.headers.get("x-version"));
    this.label = new Uint8Array(await response.arrayBuffer());
  }

  takePrompts(prompts) {
    this.prompts = new Map(prompts.map((each) => [`${each.label} ${each.axis} ${each.slice}`, each]));
  }

  promptOn(label, axis, index) {
    return this.prompts.get(`${label} ${axis} ${index}`);
  }

  /** The label of a slice. */
  slice(axis, index) {
    return this.planes[axis].read(this.label, index);
  }

  /** Begin a change that is undone as one. */
  newStep() {
    return ++this.step;
  }

  /** Replace a slice of the label; `prompt` is what the person drew for it: {label, box, points}. */
  change(axis, index, values, author, step, prompt = null) {
    this.planes[axis].write(this.label, index, values);
    if (prompt) this.prompts.set(`${prompt.label} ${axis} ${index}`, { ...prompt, axis, slice: index });
    const prompts = prompt ? [{ ...prompt, index }] : [];
    this.queue.push({ axis, author, step, slices: [{ index, runs: toRuns(values) }], prompts });
    this.send().catch(() => {}); // it is shown as trouble
    this.onChange();
  }

  get isSaved() {
    return !this.queue.length && !this.sending;
  }

  /** Send what is waiting; resolves when the server has it. */
  send() {
    this.sending ??= this.sendAll().finally(() => {
      this.sending = null;
      this.onChange();
    });
    return this.sending;
  }

  async sendAll() {
    while (this.queue.length) {
      try {
        const reply = await requestJson("PATCH", `${this.path}/label`, { ...this.queue[0], version: this.version });
        this.version = reply.version;
        this.status = reply.status;
        this.queue.shift();
        this.trouble = "";
      } catch (error) {
        this.trouble = error.message;
        if (error.status === 409) await this.catchUp();
        else if (error instanceof Refused && error.status !== 401) {
          this.queue = [];
          await this.reload();
          throw error;
        } else {
          if (!(error instanceof Refused)) this.trouble = "The server does not answer: changes wait in this page.";
          await new Promise((resolve) => setTimeout(resolve, RETRY));
        }
      }
      this.onChange();
    }
  }

  /** Load a label that was changed elsewhere, and put the changes that wait onto it. */
  async catchUp() {
    await this.reload();
    for (const { axis, slices } of this.queue) {
      const plane = this.planes[axis];
      for (const { index, runs } of slices) plane.write(this.label, index, fromRuns(runs, plane.rows * plane.columns));
    }
  }

  /** Load the label if it was changed elsewhere. */
  async loadChanges() {
    await this.send();
    const facts = await requestJson("GET", this.path);
    this.status = facts.status;
    if (facts.version !== this.version) await this.reload();
  }

  async reload() {
    this.takePrompts((await requestJson("GET", this.path)).prompts);
    await this.loadLabel();
    this.onChange();
  }

  /** Take back the last change, or make it again; resolves to whether there was one. */
  async goBack(which) {
    await this.send();
    const reply = await requestJson("POST", `${this.path}/${which}`);
    this.version = reply.version;
    for (const { axis, index, runs } of reply.slices) {
      const plane = this.planes[axis];
      plane.write(this.label, index, fromRuns(runs, plane.rows * plane.columns));
    }
    this.takePrompts(reply.prompts);
    this.onChange();
    return reply.slices.length > 0;
  }
}
