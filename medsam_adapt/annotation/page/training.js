"use strict";

// The panel with the scans to label next, and the training on all finished labels.

const SHOWN = 5; // suggested scans
const NOTHING_LABELLED = "Mark the label of a scan as finished: Retrain learns from finished labels.";
const [BUSY, QUIET] = [1500, 8000]; // ms between two looks at the server

const STATES = {
  training: ({ labelled, held_out, done, total }) =>
    `Training on ${counted(labelled - held_out, "scan")}${held_out ? `, ${held_out} held out` : ""}: ` +
    (total ? `epoch ${done} of ${total}` : "preparing"),
  ranking: ({ done, total }) => `Ranking scans: ${done} of ${total}`,
  proposing: ({ done, total }) => `Proposing labels: ${done} of ${counted(total, "scan")}`,
  done: ({ run }) => (run ? `${run} is trained and proposes.` : "The scans are ranked."),
  stopped: () => "Stopped.",
  failed: ({ message }) => message,
  idle: () => "",
};

class Rounds {
  constructor() {
    this.wasRunning = false;
    this.isStopping = false;
    const actions = {
      rank: ["POST", "/api/round/ranking"],
      retrain: ["POST", "/api/round/training"],
      "stop-round": ["DELETE", "/api/round"],
    };
    for (const [id, [method, path]] of Object.entries(actions)) {
      byId(id).addEventListener("click", () => app?.attempt(() => this.ask(method, path, id === "retrain")));
    }
  }

  /** Begin or stop something, and show at once what it does. */
  async ask(method, path, isTraining) {
    await app.scan?.send();
    const minutes = byId("minutes").value;
    this.isStopping = method === "DELETE"; // it takes a while: a training that ends writes its state
    if (this.isStopping) this.showStopping();
    try {
      await requestJson(method, path, isTraining ? { minutes: minutes ? Number(minutes) : null } : undefined);
    } finally {
      this.isStopping = false;
    }
    await this.look();
  }

  /** Show the state of the round, and look again. */
  async look() {
    clearTimeout(this.timer);
    let state;
    try {
      state = await requestJson("GET", "/api/round");
    } catch (error) {
      if (error.status === 404 || error.status === 409) return; // this server has no model, and no rounds
      state = null; // it does not answer: it may do so later
    }
    if (state) await this.show(state);
    this.timer = setTimeout(() => this.look(), state?.running ? BUSY : QUIET);
  }

  async show(state) {
    byId("round").hidden = false;
    const bar = byId("round-progress");
    bar.hidden = !state.running;
    if (state.total) [bar.max, bar.value] = [state.total, state.done];
    else bar.removeAttribute("value");
    byId("round-status").textContent = STATES[state.status](state) || (state.labelled_now ? "" : NOTHING_LABELLED);
    byId("round-status").classList.toggle("problem", state.status === "failed");
    byId("rank").disabled = state.running;
    byId("retrain").disabled = state.running || state.labelled_now === 0;
    byId("stop-round").hidden = !state.running;
    byId("stop-round").disabled = false;
    if (this.isStopping) this.showStopping();
    this.list(state.suggested);
    if (this.wasRunning && !state.running && app) await app.attempt(() => this.refresh());
    this.wasRunning = state.running;
  }

  showStopping() {
    byId("round-status").textContent = "Stopping …";
    byId("stop-round").disabled = true;
  }

  list(scans) {
    const items = scans.slice(0, SHOWN).map(({ id, score }) => {
      const button = Object.assign(document.createElement("button"), { type: "button", title: `score ${score.toFixed(2)}` });
      button.textContent = id;
      button.addEventListener("click", () => app?.attempt(() => app.open(id)));
      const item = document.createElement("li");
      item.append(button);
      return item;
    });
    byId("suggested").replaceChildren(...items);
  }

  /** A round is over: other scans have proposals now, and another model may propose. */
  async refresh() {
    const facts = await requestJson("GET", "/api/session");
    for (const { id, status } of facts.scans) app.showStatus(id, status);
    app.showModel(facts.model);
    await app.scan?.loadChanges(); // the scan that is open may have a proposal
  }
}

const rounds = new Rounds();
rounds.look();
