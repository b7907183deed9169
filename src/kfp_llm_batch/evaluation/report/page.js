"use strict";
(function () {
  const data = JSON.parse(document.getElementById("rows").textContent);
  const PAGE = 25;
  const MOST_WORDS = 400;
  const byId = (id) => document.getElementById(id);
  const filter = byId("filter"), search = byId("search"), list = byId("list");
  let page = 0;

  const FILTERS = {
    all: () => true,
    worse: (row) => row.turned === "worse",
    better: (row) => row.turned === "better",
    wrong: (row) => row.score !== null && row.score !== data.best,
    right: (row) => row.score === data.best,
    truncated: (row) => row.status === "truncated",
    missing: (row) => row.answer === null,
  };

  function make(name, className, text) {
    const node = document.createElement(name);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function searched(row) {
    if (row.searched === undefined) {
      row.searched = [row.id, row.answer, row.before, row.target, ...Object.values(row.source)].join("\n").toLowerCase();
    }
    return row.searched;
  }

  function found() {
    const wanted = search.value.trim().toLowerCase();
    return data.rows.filter((row) => FILTERS[filter.value](row) && (!wanted || searched(row).includes(wanted)));
  }

  function shownScore(score) {
    return score === null || score === undefined ? "not scored" : data.metric + " " + score;
  }

  /* The longest common subsequence of words; what is not in it was removed or added. */
  function differences(before, after) {
    const left = before.split(/(\s+)/), right = after.split(/(\s+)/);
    if (left.length > 2 * MOST_WORDS || right.length > 2 * MOST_WORDS) return null;
    const width = right.length + 1;
    const lengths = new Uint16Array((left.length + 1) * width);
    for (let i = left.length - 1; i >= 0; i--) {
      for (let j = right.length - 1; j >= 0; j--) {
        lengths[i * width + j] = left[i] === right[j]
          ? lengths[(i + 1) * width + j + 1] + 1
          : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
      }
    }
    const kept = [new Set(), new Set()];
    for (let i = 0, j = 0; i < left.length && j < right.length;) {
      if (left[i] === right[j]) { kept[0].add(i++); kept[1].add(j++); }
      else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) i++;
      else j++;
    }
    return [[left, kept[0]], [right, kept[1]]];
  }

  function text(content, marks, className) {
    const box = make("pre");
    if (content === null) { box.appendChild(make("span", "muted", "no answer")); return box; }
    if (!marks) { box.textContent = content; return box; }
    marks[0].forEach((word, index) => {
      if (marks[1].has(index) || !word.trim()) box.appendChild(document.createTextNode(word));
      else box.appendChild(make("mark", className, word));
    });
    return box;
  }

  function side(title, box) {
    const part = make("div");
    part.appendChild(make("h3", "", title));
    part.appendChild(box);
    return part;
  }

  function inside(row) {
    const box = make("div", "inside"), sides = make("div", "sides");
    const hasBefore = row.before !== undefined;
    const marks = hasBefore && row.before !== null && row.answer !== null ? differences(row.before, row.answer) : null;
    if (hasBefore) {
      sides.appendChild(side("Baseline, " + shownScore(row.score_before), text(row.before, marks && marks[0], "removed")));
    }
    sides.appendChild(side("This run, " + shownScore(row.score), text(row.answer, marks && marks[1], "added")));
    if (row.target !== null) sides.appendChild(side("Target", text(row.target)));
    box.appendChild(sides);
    for (const [name, read] of Object.entries(row.extracted)) box.appendChild(make("p", "muted", name + " read: " + read));
    for (const [name, value] of Object.entries(row.source)) box.appendChild(side(name, text(value)));
    return box;
  }

  function entry(row) {
    const details = make("details", "row"), summary = make("summary");
    summary.appendChild(make("strong", "", row.id));
    summary.appendChild(make("span", row.turned, row.turned ? "turned " + row.turned : shownScore(row.score)));
    if (row.status !== "ok") summary.appendChild(make("span", "muted", row.status));
    summary.appendChild(make("span", "text muted", row.answer === null ? "" : row.answer.slice(0, 160)));
    details.appendChild(summary);
    details.addEventListener("toggle", () => {
      if (details.open && details.childNodes.length === 1) details.appendChild(inside(row));
    });
    return details;
  }

  function show() {
    const rows = found(), pages = Math.max(1, Math.ceil(rows.length / PAGE));
    page = Math.min(page, pages - 1);
    list.replaceChildren(...rows.slice(page * PAGE, (page + 1) * PAGE).map(entry));
    byId("count").textContent = rows.length.toLocaleString("en") + " rows";
    byId("place").textContent = "page " + (page + 1) + " of " + pages;
    byId("previous").disabled = page === 0;
    byId("next").disabled = page >= pages - 1;
  }

  function restart() { page = 0; show(); }
  filter.addEventListener("change", restart);
  search.addEventListener("input", restart);
  byId("previous").addEventListener("click", () => { page--; show(); });
  byId("next").addEventListener("click", () => { page++; show(); });
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
  });
  show();
})();
