"use strict";

// The page: the list of scans, the scan that is open, and what the buttons do.

const byId = (id) => document.getElementById(id);
/** "1 scan", "2 scans" */
const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
const STATUS = { open: "open", proposed: "draft", labelled: "finished" }; // as the list of scans calls them

class App {
  constructor(facts) {
    this.scan = null;
    this.model = facts.model;
    this.display = new Display(this);
    this.tools = new Tools(this);
    this.proposals = new Proposals(this);
    this.structures = new Structures(this, facts.classes);
    this.fillScans(facts.scans);
    this.listen();
    this.tools.choose(this.model ? "box" : "brush");
    this.showModel(facts.model);
    for (const note of facts.notes) this.say(note, true);
  }

  listen() {
    listenToKeys(this);
    fillHelp(byId("help"));
    const { proposals, structures } = this;
    const actions = {
      propagate: () => proposals.propagate("both"), "propagate-up": () => proposals.propagate("up"),
      "propagate-down": () => proposals.propagate("down"), fill: () => proposals.fill(), clear: () => this.clearSlice(),
      undo: () => this.goBack("undo"), redo: () => this.goBack("redo"), finish: () => this.finish(),
      segment: () => proposals.segment(), "open-help": () => this.help(), stop: () => this.cancel(),
      "hide-all": () => structures.hideAll(),
    };
    for (const [id, action] of Object.entries(actions)) byId(id).addEventListener("click", () => this.attempt(action));
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
    this.proposals.bases.clear();
    scan.onChange = () => this.onChange(scan);
    this.display.show(scan);
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
    this.display.draw();
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
    const missing = this.structures.all.filter(({ label }) => !this.scan.label.includes(label)).map(({ name }) => name);
    if (!missing.length) return this.say("The label is finished: Retrain learns from it.");
    const isEmpty = missing.length === this.structures.all.length;
    this.say(`Finished. Not drawn, so Retrain learns that this scan has none: ${missing.join(", ")}.`, isEmpty);
  }

  async save() {
    await this.scan.send();
    await requestJson("POST", "/api/save");
    this.say("Saved.");
  }

  clearSlice() {
    const { axis, index } = this.display.active;
    const values = this.scan.slice(axis, index).map((value) => (value === this.structures.chosen ? 0 : value));
    this.scan.change(axis, index, values, "person", this.scan.newStep());
  }

  async goBack(which) {
    const changed = await this.scan.goBack(which);
    if (!changed) this.say(`There is nothing to ${which}.`);
  }

  cancel() {
    this.proposals.running?.abort();
    this.tools.cancel();
    if (this.scan) this.display.draw();
  }

  help() {
    byId("help").showModal();
  }
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
