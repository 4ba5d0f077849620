
(() => {
  const { byId, shown, make, floats } = flux;
  const { page, look, hidden, charts, train, validation, wholeRun } = curves;
  const { short, told, percent, gibibytes, makeChart, smallChart, drawAll, zoom } = curves;
  const COLOURS = 6;
  const finite = (values) => values.filter(Number.isFinite);

  // ---- Loss

  const robots = page.groups.length > 1 ? page.groups : [];
  const colourOf = (group) => `r${page.groups.indexOf(group) % COLOURS}`;
  const lossNames = [
    ["all", "loss", robots.length ? "all" : "r0"],
    ...robots.map((group) => [group, `loss_by_robot/${group}`, colourOf(group)]),
  ];

  const lossChart = () => {
    const lines = [];
    for (const [key, name, kind] of lossNames) {
      const trained = train.series[name];
      const heldOut = validation.series[name];
      if (trained) lines.push({ key, kind, steps: train.steps, ...trained, isRaw: true });
      if (trained && robots.length) delete lines[lines.length - 1].low;
      if (heldOut) lines.push({ key, kind, steps: validation.steps, ...heldOut, hasDots: true });
    }
    const entries = new Map();
    for (const [key, , kind] of lossNames) {
      if (!lines.some((line) => line.key === key)) continue;
      const name = robots.length ? key : "training";
      const [value, heldOut] = [make("b"), make("span")];
      const button = make("button", { type: "button", class: kind, "aria-pressed": "true" });
      button.append(make("i"), `${name} `, value, heldOut);
      button.addEventListener("click", () => {
        if (!hidden.delete(key)) hidden.add(key);
        button.setAttribute("aria-pressed", String(!hidden.has(key)));
        drawAll();
      });
      entries.set(key, { button, value, heldOut });
    }
    const tell = (values) => {
      for (const { line, value, low, high } of values) {
        const entry = entries.get(line.key);
        const spread =
          look.hover !== null && low !== undefined && high > low
            ? ` (${short(low)} to ${short(high)})`
            : "";
        if (line.hasDots) entry.heldOut.textContent = `held-out ${told(value)}`;
        else entry.value.textContent = told(value) + spread;
      }
    };
    const chart = makeChart(lines, {
      isLog: () => look.scale === "log",
      write: short,
      ticks: 5,
      axisTicks: 7,
      tell,
    });
    const hasHeldOut = lines.some((line) => line.hasDots);
    const note = make("p", {}, make("i"), "training");
    if (hasHeldOut) note.append(make("i", { class: "held" }), "held-out");
    const buttons = [...entries.values()].map(({ button }) => button);
    const legend = make("div", { class: "legend" }, ...buttons, note);
    byId("loss").append(legend, chart.box);
  };

  // ---- Optimisation and throughput

  const RUN = [
    ["learning_rate", "learning rate", short, {}],
    ["grad_norm", "gradient norm", short, { isRaw: true, isLog: true }],
    ["samples_per_s", "samples per second", short, { isRaw: true, fromZero: true }],
    ["data_wait_share", "waiting for data", percent, { isRaw: true, fromZero: true }],
    ["mfu", "MFU", percent, { isRaw: true, fromZero: true }],
    ["peak_memory_bytes", "peak memory", gibibytes, { fromZero: true, unit: 2 ** 30 }],
  ];

  const runCurves = () => {
    for (const [name, title, write, traits] of RUN) {
      const columns = train.series[name];
      if (!columns) continue;
      const line = { key: name, kind: "r0", steps: train.steps, ...columns, isRaw: traits.isRaw };
      if (traits.unit) line.mean = line.mean.map((value) => value / traits.unit);
      const isLog = () => Boolean(traits.isLog) && look.scale === "log";
      byId("run-curves").append(
        smallChart(title, [line], { isLog, write, fromZero: traits.fromZero }),
      );
    }
    byId("run").hidden = !byId("run-curves").children.length;
  };

  // ---- By action dimension

  const ERRORS = [
    ["mean_abs", "mean"],
    ["first_step", "first step"],
    ["last_step", "last step"],
    ["after_prefix", "after the prefix"],
  ];
  let numCommon = 0; // charts that belong to no single robot

  const trendCell = (trend, dim, count) => {
    const values = Array.from({ length: trend.length / count }, (_, i) => trend[i * count + dim]);
    const logs = values.map((value) => (value > 0 ? Math.log(value) : NaN));
    const [low, high] = [Math.min(...finite(logs)), Math.max(...finite(logs))];
    const width = Math.max(values.length - 1, 1);
    let text = "";
    logs.forEach((value, i) => {
      const y = 18 - (16 * (value - low)) / (high - low || 1);
      if (Number.isFinite(y)) text += `${text ? "L" : "M"}${i} ${y.toFixed(2)}`;
    });
    const box = { class: "trend", viewBox: `0 0 ${width} 20`, preserveAspectRatio: "none" };
    return make("td", {}, make("svg", box, make("path", { d: text })));
  };

  const barCell = (share) => {
    const width = Number.isFinite(share) ? Math.max(100 * share, 0.5) : 0;
    const box = { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none" };
    return make("td", {}, make("svg", box, make("rect", { width, height: 10 })));
  };

  const dimensionTable = (about) => {
    const { names } = about;
    const losses = ["train", "validation"]
      .filter((kind) => about[kind])
      .map((kind) => ({ kind, ...mapped(about[kind]) }));
    const errors = ERRORS.filter(([name]) => about.errors[name]).map(([name, title]) => {
      const values = floats(about.errors[name]);
      return { title, last: values.slice(-names.length) };
    });
    const head = [make("tr", {}, make("th")), make("tr", {}, make("th", {}, "dimension"))];
    for (const { kind } of losses) {
      const title = kind === "train" ? "training loss" : "held-out loss";
      head[0].append(make("th", { colspan: kind === "train" ? 4 : 3 }, title));
      const columns = ["now", "change", ...(kind === "train" ? [""] : []), "over time"];
      head[1].append(...columns.map((name) => make("th", {}, name)));
    }
    if (errors.length) head[0].append(make("th", { colspan: errors.length }, "open-loop error"));
    for (const { title } of errors) head[1].append(make("th", {}, title));
    const rows = names.map((name, dim) => {
      const row = make("tr", {}, make("th", {}, name));
      for (const { kind, first, last: now, trend } of losses) {
        const change = now[dim] / first[dim] - 1;
        const mood = change < -0.005 ? "better" : change > 0.005 ? "worse" : "";
        const sign = change > 0 ? "+" : "";
        const text = Number.isFinite(change) ? sign + percent(change) : "–";
        row.append(
          make("td", {}, told(now[dim])),
          make("td", { class: mood, title: `${short(first[dim])} at first` }, text),
        );
        if (kind === "train") row.append(barCell(now[dim] / Math.max(...finite(Array.from(now)))));
        row.append(trendCell(trend, dim, names.length));
      }
      for (const { last: now } of errors) row.append(make("td", {}, told(now[dim])));
      return row;
    });
    byId("dimensions").replaceChildren(make("thead", {}, ...head), make("tbody", {}, ...rows));
    byId("robots").hidden = !losses.length && !errors.length;
  };
  const mapped = (columns) =>
    Object.fromEntries(Object.entries(columns).map(([name, text]) => [name, floats(text)]));

  const errorCharts = (about) => {
    const section = byId("errors");
    const kinds = ERRORS.filter(([name]) => about.errors[name]);
    section.hidden = !kinds.length || !about.names.length;
    if (section.hidden) return;
    section
      .querySelector(".key")
      .replaceChildren(
        ...kinds.map(([name, title]) => make("span", {}, make("i", { class: name }), title)),
      );
    const count = about.names.length;
    const xs = floats(about.errorSteps);
    const figures = about.names.map((title, dim) => {
      const lines = kinds.map(([name]) => {
        const values = floats(about.errors[name]);
        const mean = Array.from(xs, (_, i) => values[i * count + dim]);
        return { key: `error ${name}`, kind: name, steps: xs, mean, hasDots: true };
      });
      const isLog = () => look.scale === "log";
      const options = { isLog, write: short, fromZero: true, ticks: 2 };
      return smallChart(title, lines, options);
    });
    section.querySelector(".grid").replaceChildren(...figures);
  };

  const choose = (name) => {
    shown.group = name;
    charts.length = numCommon;
    byId("group-name").textContent = page.groups.length > 1 ? "" : name;
    dimensionTable(page.dimensions[name]);
    errorCharts(page.dimensions[name]);
    if (byId("samples")) samples.choose(name);
    drawAll();
  };

  // ---- The visitor's actions

  const onChoice = (id, act) => {
    byId(id)?.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      for (const each of byId(id).children) {
        each.setAttribute("aria-pressed", String(each === button));
      }
      act(button.dataset.value);
    });
  };

  const setSmoothing = () => {
    const slider = Number(byId("smoothing").value) / 100;
    look.smoothing = slider === 0 ? 0 : 1 - 10 ** (-2.2 * slider);
    byId("smoothing-value").textContent = look.smoothing.toFixed(2);
  };

  const start = () => {
    if (!byId("loss")) return;
    if (!page.stepsPerEpoch) byId("axis").hidden = true;
    setSmoothing();
    lossChart();
    runCurves();
    numCommon = charts.length;
    onChoice("scale", (value) => drawAll((look.scale = value)));
    onChoice("axis", (value) => drawAll((look.axis = value)));
    onChoice("group", choose);
    byId("smoothing").addEventListener("input", () => drawAll(setSmoothing()));
    byId("whole").addEventListener("click", () => zoom(...wholeRun));
    samples.start();
    addEventListener("resize", drawAll);
    if (page.groups.length) choose(page.groups[0]);
    else drawAll();
  };
  start();
  shown.ready = "1";
})();
