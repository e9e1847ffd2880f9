"use strict";
// What the browser does by itself: keep the address, the colours and the controls in step, and save
// plots and tables. The query of the URL is the one value that says what a page shows.
window.dash_clientside = window.dash_clientside || {};
(() => {
  // Asked for at each use: the renderer, which brings it, loads after this file.
  const keep = () => window.dash_clientside.no_update;
  const root = document.documentElement;

  function storedTheme() {
    try {
      return localStorage.getItem("search-theme");
    } catch {
      return null; // storage may be forbidden; the scheme of the system is a good default
    }
  }

  function setTheme(theme) {
    root.dataset.theme = theme;
    try {
      localStorage.setItem("search-theme", theme);
    } catch {
      // not remembered, then
    }
  }

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  root.dataset.theme = storedTheme() || (dark.matches ? "dark" : "light");

  const params = (query) => new URLSearchParams(query || "");
  function text(query) {
    const written = query.toString();
    return written ? `?${written}` : "";
  }
  // A value that equals its default is left out, as `View.query` does.
  function put(query, name, value, fallback) {
    if (value === null || value === undefined || value === "" || value === fallback) {
      query.delete(name);
    } else {
      query.set(name, String(value));
    }
    return query;
  }
  const triggered = () => (window.dash_clientside.callback_context.triggered_id);

  // Limits -------------------------------------------------------------------------------------
  // A slider has positions 0 to 1000. One end means "no limit"; sizes and times are logarithmic.
  const STEPS = 1000;
  // What `View.parse` takes for a limit.
  const [LEAST, MOST] = [1e-9, 1e12];
  function valueAt(position, range) {
    const { low, high, log, open } = range;
    if (position === (open === "high" ? STEPS : 0)) return null;
    const share = position / STEPS;
    const value = log ? low * (high / low) ** share : low + (high - low) * share;
    return Number(value.toPrecision(4));
  }
  function positionOf(value, range) {
    const { low, high, log, open } = range;
    if (value === null || Number.isNaN(value)) return open === "high" ? STEPS : 0;
    const share = log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
    // The very end is kept for "no limit".
    const inside = open === "high" ? [0, STEPS - 1] : [1, STEPS];
    return Math.round(Math.min(Math.max(share * STEPS, inside[0]), inside[1]));
  }

  // An empty field is "no limit"; what is no number, or none above 0, leaves the limit as it is.
  function typed(box, range, now) {
    const field = document.getElementById(`limit-${range.name}-box`);
    if (field && field.validity.badInput) return now;
    if (box === null || box === "" || Number.isNaN(box)) return null;
    return Number(box) > 0 ? Number((Number(box) / range.scale).toPrecision(12)) : now;
  }

  // What a limit's field shows. Emptied by Dash, a field of numbers complains of a "NaN".
  function inField(value, range) {
    if (value !== null) return Number((value * range.scale).toPrecision(6));
    const field = document.getElementById(`limit-${range.name}-box`);
    if (field) field.value = "";
    return null;
  }

  // Dash overlooks that a field was emptied whose value came from the slider.
  document.addEventListener("change", ({ target }) => {
    const isEmptied = target.matches(".limit input[type=number]") && target.value === "";
    if (isEmptied && !target.validity.badInput) {
      window.dash_clientside.set_props(target.id, { value: null });
    }
  });

  // The query last written into the address.
  let inAddress = null;

  window.dash_clientside.dashboard = {
    where(pathname, search, view, before) {
      const isSamePage = before && before.pathname === pathname;
      // What we wrote ourselves comes back here, sometimes late; only a reader's steps matter.
      const isOurs = [view, inAddress].includes(search) || search !== window.location.search;
      if (isSamePage && isOurs) return keep();
      // Whoever follows a link by keyboard or screen reader goes on at the new page's content.
      if (before && !isSamePage) document.getElementById("page").focus({ preventScroll: true });
      return { pathname, search: search || "", theme: root.dataset.theme };
    },

    theme(clicks) {
      if (clicks) setTheme(root.dataset.theme === "dark" ? "light" : "dark");
      return [root.dataset.theme, root.dataset.theme === "dark" ? "light colours" : "dark colours"];
    },

    write(view) {
      if (window.location.search !== view) {
        window.history.replaceState(window.history.state, "", window.location.pathname + view);
      }
      // dcc.Location compares a link that is followed with what it knows, not with the address.
      inAddress = view;
      window.dash_clientside.set_props("url", { search: view });
      return view;
    },

    tabs(view, ...hrefs) {
      // On the way to the list of studies they are gone already.
      return hrefs.map((href) => (href ? href.split("?")[0] + view : keep()));
    },

    // A control's value into the query: `spec` is [name, default].
    merge(value, view, spec) {
      const query = put(params(view), spec.name, value, spec.fallback);
      if (spec.resets) query.delete(spec.resets);
      const written = text(query);
      return written === view ? keep() : written;
    },

    limit(position, box, range, view) {
      if (!range) return [keep(), keep(), keep()];
      const byBox = String(triggered()).endsWith("-box");
      const moved = params(view).get(range.name);
      const now = moved === null ? range.own : moved === "none" ? null : Number(moved);
      // New trials made the slider longer: the limit is the same, at another place.
      if (String(triggered()).endsWith("-range")) return [keep(), positionOf(now, range), keep()];
      // A page that has just been built asks too: its slider stands where the limit is, rounded.
      if (!byBox && Number(position) === positionOf(now, range)) return [keep(), keep(), keep()];
      let value = byBox ? typed(box, range, now) : valueAt(Number(position), range);
      if (value !== null) value = value > 0 ? Math.min(Math.max(value, LEAST), MOST) : null;
      const own = range.own;
      const isOwn = value === own || (value !== null && own !== null
        && Math.abs(value - own) < 1e-9 * Math.abs(own));
      const query = params(view);
      if (isOwn) query.delete(range.name);
      else query.set(range.name, value === null ? "none" : String(value));
      const written = text(query);
      return [
        written === view ? keep() : written,
        byBox ? positionOf(value, range) : keep(),
        inField(value, range),
      ];
    },

    // "the study's own limits": all sliders back.
    ownLimits(clicks, view, ...ranges) {
      if (!clicks) return [keep(), ...ranges.map(() => keep()), ...ranges.map(() => keep())];
      const query = params(view);
      for (const range of ranges) if (range) query.delete(range.name);
      return [
        text(query),
        ...ranges.map((range) => (range ? positionOf(range.own, range) : keep())),
        ...ranges.map((range) => (range ? inField(range.own, range) : keep())),
      ];
    },

    // Points: a click, a name typed, the steps along the front.
    points(click, a, b, previous, next, swap, drop, chosen, view, names) {
      const query = params(view);
      let [left, right] = [query.get("a") || "", query.get("b") || ""];
      const step = (by) => {
        if (!names || names.length === 0) return left;
        const at = names.indexOf(left);
        if (at < 0) return names[by > 0 ? 0 : names.length - 1];
        return names[Math.min(Math.max(at + by, 0), names.length - 1)];
      };
      switch (triggered()) {
        case "pareto": {
          const data = click && click.points[0] && click.points[0].customdata;
          const name = Array.isArray(data) ? String(data[0]) : null;
          if (!name) return [keep(), keep(), keep()];
          if ((chosen || []).includes("b")) right = name;
          else left = name;
          break;
        }
        case "point-a": left = (a || "").trim(); break;
        case "point-b": right = (b || "").trim(); break;
        case "point-previous": left = step(-1); break;
        case "point-next": left = step(1); break;
        case "point-swap": [left, right] = [right, left]; break;
        case "point-drop": right = ""; break;
        default: return [keep(), keep(), keep()];
      }
      put(put(query, "a", left, ""), "b", right, "");
      const written = text(query);
      return [written === view ? keep() : written, left, right];
    },

    // Only when one of them changed: what depends on a clicked point must not be drawn again for
    // every move of a slider.
    points_of(view, before) {
      const query = params(view);
      const found = ["a", "b"].map((name) => query.get(name) || "");
      return JSON.stringify(found) === JSON.stringify(before) ? keep() : found;
    },

    // The range a reader zoomed to and of which axis, for thinning anew; null = as drawn.
    zoom(relayout, before, view) {
      if (!relayout) return keep();
      // A double click goes back to the first view, which the server knows.
      if (relayout["xaxis.autorange"] || relayout["yaxis.autorange"]) return before ? null : keep();
      // Dragging along one axis changes that one alone: the plot knows both.
      if (!Object.keys(relayout).some((key) => /^[xy]axis\.range/.test(key))) return keep();
      const { xaxis, yaxis } = document.querySelector("#pareto .js-plotly-plot")._fullLayout;
      const isFirst = ({ range, _rangeInitial0: from, _rangeInitial1: to }) =>
        range[0] === from && range[1] === to;
      if (isFirst(xaxis) && isFirst(yaxis)) return before ? null : keep();
      return { x: params(view).get("x") || "", range: [...xaxis.range, ...yaxis.range] };
    },

    // In words, because plotly would send the reader to a site elsewhere.
    webgl(view) {
      if (params(view).get("shape") !== "3d") return "";
      const isThere = document.createElement("canvas").getContext("webgl") !== null;
      return isThere ? "" : "The 3-D view needs WebGL, which this browser does not offer here; "
        + "the 2-D view shows the same trials.";
    },

    page(previous, next, view) {
      const query = params(view);
      const now = Number(query.get("page") || 1);
      const then = triggered() === "page-next" ? now + 1 : Math.max(1, now - 1);
      return text(put(query, "page", then, 1));
    },
  };

  // Tables -------------------------------------------------------------------------------------
  // A table comes as data: texts go in as text, so nothing of a record becomes markup.
  function element(name, className, content) {
    const node = document.createElement(name);
    if (className) node.className = className;
    if (content !== undefined) node.textContent = content;
    return node;
  }

  function headCell(content, link) {
    if (!link || !link.startsWith("/")) return document.createTextNode(content);
    const anchor = element("a", "", content);
    anchor.href = link;
    anchor.dataset.inside = "";
    return anchor;
  }

  // Whoever stands on a link by keyboard stays on it when its table is made anew.
  let lost = null;
  document.addEventListener("focusout", ({ target, relatedTarget }) => {
    const isCut = !relatedTarget && target.matches("[data-table] a");
    lost = isCut ? { href: target.href, at_ms: performance.now() } : null;
  });

  function fill(holder) {
    const { caption, head, kinds, rows, links, marked } = JSON.parse(holder.dataset.table);
    const table = element("table");
    table.append(element("caption", "", caption));
    const top = table.createTHead().insertRow();
    head.forEach((words, i) => {
      const cell = element("th", kinds[i], words);
      cell.scope = "col";
      top.append(cell);
    });
    const body = table.createTBody();
    rows.forEach((texts, at) => {
      const row = body.insertRow();
      if (marked.includes(at)) row.className = "marked";
      texts.forEach((words, i) => {
        const cell = element(i === 0 ? "th" : "td", kinds[i], i === 0 ? undefined : words);
        if (i === 0) {
          cell.scope = "row";
          cell.append(headCell(words, links[at]));
        }
        row.append(cell);
      });
    });
    holder.replaceChildren(table);
    if (lost && performance.now() - lost.at_ms < 200 && document.activeElement === document.body) {
      const again = Array.from(table.querySelectorAll("a")).find(({ href }) => href === lost.href);
      if (again) again.focus({ preventScroll: true });
    }
  }

  new MutationObserver((changes) => {
    const holders = new Set();
    for (const change of changes) {
      if (change.type === "attributes") holders.add(change.target);
      for (const node of change.addedNodes) {
        if (node.nodeType !== Node.ELEMENT_NODE) continue;
        if (node.matches("[data-table]")) holders.add(node);
        node.querySelectorAll("[data-table]").forEach((holder) => holders.add(holder));
      }
    }
    holders.forEach(fill);
  }).observe(root, { subtree: true, childList: true, attributeFilter: ["data-table"] });

  // Plots --------------------------------------------------------------------------------------
  // A plot as its reader left it: zoom, camera, and what was clicked away in the legend. Plotly
  // keeps these by `uirevision`; but Dash 4.4 draws a plot again after every zoom, with the zoom as
  // if it were the figure's, and the next figure would win over it.
  const left = new Map();
  const own = new Map(); // the ranges of the figures themselves
  const isAxis = (name) => /^[xy]axis\d*$/.test(name);
  const seriesOf = (trace) => String(trace.name).replace(/ \([\d,]+\)$/, "");

  function watch(plot, place) {
    const change = (store) => {
      const { uirevision } = plot.layout;
      const before = left.get(place);
      const isSame = before && before.uirevision === uirevision;
      const kept = isSame ? before : { uirevision, axes: {}, series: {}, camera: null };
      store(kept);
      left.set(place, kept);
    };
    plot.on("plotly_relayout", (event) => change((kept) => {
      for (const key of Object.keys(event || {})) {
        const [axis, what] = key.split(".");
        if (isAxis(axis) && what.startsWith("range")) {
          const range = [...plot.layout[axis].range];
          const isOwn = String(range) === String(own.get(place)[axis]);
          if (isOwn) delete kept.axes[axis]; // reset: it follows the study again
          else kept.axes[axis] = { range, autorange: false };
        } else if (what === "autorange" && event[key]) {
          kept.axes[axis] = { range: undefined, autorange: true };
        } else if (key === "scene.camera") {
          kept.camera = event[key];
        }
      }
    }));
    plot.on("plotly_restyle", ([{ visible }, indices]) => change((kept) => {
      (visible ? indices : []).forEach((index, i) => {
        kept.series[seriesOf(plot.data[index])] = Array.isArray(visible) ? visible[i] : visible;
      });
    }));
  }

  function asLeft({ data, layout, ...others }, place) {
    if (!layout) return { data, layout, ...others };
    // Copies: plotly writes into what it is given, and Dash draws from the same figure again.
    const looks = { ...layout };
    const axes = Object.keys(layout).filter(isAxis);
    for (const axis of axes) looks[axis] = { ...layout[axis] };
    own.set(place, Object.fromEntries(axes.map((axis) => [axis, String(layout[axis].range)])));
    const kept = left.get(place);
    if (!kept || kept.uirevision !== layout.uirevision) return { data, layout: looks, ...others };
    for (const [axis, look] of Object.entries(kept.axes)) looks[axis] = { ...looks[axis], ...look };
    if (kept.camera && layout.scene) looks.scene = { ...layout.scene, camera: kept.camera };
    const shown = data.map((trace) => {
      const visible = kept.series[seriesOf(trace)];
      return visible === undefined ? trace : { ...trace, visible };
    });
    return { data: shown, layout: looks, ...others };
  }

  // Plotly comes late, as a script of its own.
  document.addEventListener("load", () => {
    if (!window.Plotly || window.Plotly.asLeft) return;
    const { react } = window.Plotly;
    window.Plotly.asLeft = true;
    window.Plotly.react = async (plot, figure) => {
      const place = `${window.location.pathname} ${plot.closest(".dash-graph").id}`;
      await react(plot, asLeft(figure, place));
      if (!plot.dataset.watched) watch(plot, place);
      plot.dataset.watched = "yes";
      return plot;
    };
  }, true);

  // A link within the site, as dcc.Link follows it: the page stays, its content changes.
  function follow(event, anchor) {
    if (event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    window.history.pushState({}, "", anchor.href);
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate", { detail: anchor.href }));
    window.scrollTo(0, 0);
  }

  // Saving -------------------------------------------------------------------------------------
  function save(name, type, content) {
    const url = URL.createObjectURL(new Blob([content], { type }));
    const link = Object.assign(document.createElement("a"), { href: url, download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  // A cell that begins like a formula must not run in a spreadsheet.
  function cell(node) {
    const plain = node.textContent.replace(/\s+/g, " ").trim();
    const isNumber = node.classList.contains("number");
    const safe = !isNumber && /^[=+\-@]/.test(plain) ? `'${plain}` : plain;
    return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }

  function csvOf(table) {
    return Array.from(table.rows, (row) => Array.from(row.cells, cell).join(",")).join("\n") + "\n";
  }

  async function savePlot(figure, name, format) {
    const plot = figure.querySelector(".js-plotly-plot");
    const { width, height } = plot.getBoundingClientRect();
    await window.Plotly.downloadImage(plot, { format, width, height, scale: 2, filename: name });
  }

  function flash(button, words) {
    const before = button.textContent;
    button.textContent = words;
    setTimeout(() => { button.textContent = before; }, 1200);
  }

  document.addEventListener("click", (event) => {
    const inside = event.target.closest("a[data-inside]");
    if (inside) follow(event, inside);
    const saver = event.target.closest("[data-save]");
    if (saver) {
      const figure = saver.closest("figure");
      const name = figure.dataset.name;
      if (saver.dataset.save === "csv") {
        save(`${name}.csv`, "text/csv", csvOf(figure.querySelector("table")));
      } else {
        savePlot(figure, name, saver.dataset.save);
      }
    }
    const copier = event.target.closest("[data-copy]");
    if (copier) {
      navigator.clipboard.writeText(copier.parentElement.querySelector("code").textContent)
        .then(() => flash(copier, "copied"), () => flash(copier, "select and copy by hand"));
    }
  });
})();
