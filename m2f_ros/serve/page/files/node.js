// The running node: small plots of ages, rates and drops, and its parameters.

const SECONDS = 60; // of a plot
const WINDOW = 2; // seconds over which a rate is taken

class Plot {
  constructor(title, unit, lines) {
    this.unit = unit;
    this.lines = lines.map((name) => ({ name, points: [] }));
    this.element = document.createElement("div");
    this.element.className = "plot";
    const key = lines.length > 1 ? ` (${lines.join(", ")})` : "";
    this.element.innerHTML = '<span class="key"></span><span class="now"></span><canvas role="img"></canvas>';
    this.element.querySelector(".key").textContent = title + key;
    this.canvas = this.element.querySelector("canvas");
    this.title = title;
  }

  add(time, ...values) {
    values.forEach((value, i) => {
      const { points } = this.lines[i];
      points.push([time, value]);
      while (points.length && points[0][0] < time - SECONDS) points.shift();
    });
    const shown = values.map((value) => value.toFixed(value < 10 ? 1 : 0)).join(", ") + ` ${this.unit}`;
    this.element.querySelector(".now").textContent = shown;
    this.canvas.setAttribute("aria-label", `${this.title}: ${shown}`);
    this.draw(time);
  }

  draw(time) {
    const ratio = devicePixelRatio || 1, { clientWidth, clientHeight } = this.canvas;
    this.canvas.width = clientWidth * ratio;
    this.canvas.height = clientHeight * ratio;
    const context = this.canvas.getContext("2d"), style = getComputedStyle(this.canvas);
    const most = Math.max(1e-9, ...this.lines.flatMap(({ points }) => points.map(([, value]) => value)));
    context.lineWidth = 1.5 * ratio;
    this.lines.forEach(({ points }, i) => {
      context.strokeStyle = style.getPropertyValue(i ? "--two" : "--one");
      context.beginPath();
      for (const [when, value] of points) {
        const x = this.canvas.width * (1 - (time - when) / SECONDS);
        context.lineTo(x, this.canvas.height - 2 - (value / most) * (this.canvas.height - 6));
      }
      context.stroke();
    });
  }
}

export class Plots {
  constructor(place) {
    this.place = place;
    this.cameras = new Map();
  }

  /** Forgets the cameras of a node that has gone. */
  keep(names) {
    for (const [name, { group }] of this.cameras) {
      if (names.includes(name)) continue;
      group.remove();
      this.cameras.delete(name);
    }
  }

  of(camera) {
    if (!this.cameras.has(camera)) {
      const level = document.createElement("p");
      level.className = "level";
      const plots = [
        new Plot("Age", "ms", ["age"]),
        new Plot("Rate", "Hz", ["in", "out"]),
        new Plot("Drops", "/s", ["drops"]),
      ];
      const group = document.createElement("div");
      group.setAttribute("role", "group");
      group.setAttribute("aria-label", camera || "camera");
      if (camera) group.append(Object.assign(document.createElement("strong"), { textContent: camera }));
      group.append(level, ...plots.map((plot) => plot.element));
      this.place.append(group);
      this.cameras.set(camera, { group, level, plots, past: [] });
    }
    return this.cameras.get(camera);
  }

  /** Takes the statistics of one frame. */
  add(news) {
    const { plots, past } = this.of(news.camera);
    if (past.length && news.received < past.at(-1).received) past.length = 0; // the node began anew
    past.push(news);
    while (past.length > 2 && past[1].time < news.time - WINDOW) past.shift();
    plots[0].add(news.time, news.age_ms);
    const seconds = news.time - past[0].time;
    if (seconds <= 0) return;
    const rate = (name) => (news[name] - past[0][name]) / seconds;
    plots[1].add(news.time, rate("received"), rate("segmented"));
    plots[2].add(news.time, rate("dropped"));
    const why = Object.entries(news.drops).filter(([, count]) => count).map(([reason, count]) => `${reason}: ${count}`);
    plots[2].element.title = why.join(", ");
  }

  /** Shows the node's own words on a camera. */
  tell(news) {
    const { level } = this.of(news.camera);
    level.textContent = news.text;
    level.classList.toggle("bad", news.level > 0);
  }
}

export class Parameters {
  /** ask: function (name, value) that sends a new value. */
  constructor(form, ask) {
    this.form = form;
    this.ask = ask;
    this.rows = new Map();
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  /** Shows these parameters, in place of those before. */
  show(parameters) {
    if (JSON.stringify(parameters.map(({ value, ...rest }) => rest)) === this.shape) {
      for (const { name, value } of parameters) this.set(name, value);
      return;
    }
    this.shape = JSON.stringify(parameters.map(({ value, ...rest }) => rest));
    this.rows.clear();
    this.form.replaceChildren(...parameters.map((one, number) => this.row(one, number)));
  }

  row(one, number) {
    const row = document.createElement("div"), label = document.createElement("label");
    const control = this.control(one), id = `parameter-${number}`;
    row.className = control.type === "checkbox" ? "row check" : "row";
    label.htmlFor = control.id = id;
    label.textContent = one.name;
    const about = Object.assign(document.createElement("p"), { className: "about", textContent: one.description });
    about.id = `${id}-about`;
    control.setAttribute("aria-describedby", about.id);
    const output = document.createElement("output");
    output.htmlFor = id;
    const reason = Object.assign(document.createElement("p"), { className: "reason", hidden: true });
    reason.setAttribute("role", "alert");
    const ranged = control.type === "range";
    row.append(...(control.type === "checkbox" ? [control, label] : [label, control, ...(ranged ? [output] : [])]));
    row.append(about, reason);
    this.rows.set(one.name, { one, control, output, reason, busy: false });
    control.addEventListener("input", () => {
      this.rows.get(one.name).busy = true;
      output.value = control.value;
    });
    control.addEventListener("change", () => {
      this.rows.get(one.name).busy = false;
      reason.hidden = true;
      this.ask(one.name, this.read(one, control));
    });
    this.set(one.name, one.value);
    return row;
  }

  control(one) {
    if (one.type === "bool") return Object.assign(document.createElement("input"), { type: "checkbox" });
    if (one.choices.length && !one.type.endsWith("[]")) {
      const select = document.createElement("select");
      select.append(...one.choices.map((choice) => new Option(choice, choice)));
      return select;
    }
    const input = document.createElement("input");
    if (["int", "float"].includes(one.type)) {
      const [low, high] = one.range ?? [null, null], whole = one.type === "int";
      const slides = one.range && high - low <= (whole ? 64 : 10);
      input.type = slides ? "range" : "number";
      if (one.range) Object.assign(input, { min: low, max: high });
      input.step = whole ? 1 : slides ? (high - low) / 100 : "any";
    } else {
      input.type = "text";
      input.spellcheck = false;
    }
    return input;
  }

  read(one, control) {
    if (one.type === "bool") return control.checked;
    if (["int", "float"].includes(one.type)) return Number(control.value);
    if (!one.type.endsWith("[]")) return typeof one.value === "number" ? Number(control.value) : control.value;
    const texts = control.value.split(",").map((text) => text.trim()).filter(Boolean);
    return one.type === "float[]" ? texts.map(Number) : texts;
  }

  /** Takes a value of the node, which this page or another one may have set. */
  set(name, value) {
    const row = this.rows.get(name);
    if (!row) return;
    row.one.value = value;
    if (row.busy) return;
    if (row.one.type === "bool") row.control.checked = value;
    else row.control.value = Array.isArray(value) ? value.join(", ") : value;
    row.output.value = Array.isArray(value) ? value.join(", ") : value;
  }

  /** Takes the node's answer; a refusal shows its reason, and the value that holds. */
  answer({ name, reason }) {
    const row = this.rows.get(name);
    if (!row) return;
    row.reason.textContent = reason;
    row.reason.hidden = !reason;
    if (reason) this.set(name, row.one.value);
  }
}
