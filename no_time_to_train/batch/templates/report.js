"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const every = (where, what) => [...where.querySelectorAll(what)];
  const list = at("cards"), status = at("status"), form = at("controls"), dialog = at("large");
  const boxes = every(at("class-filter"), "input");
  const counts = every(at("class-filter"), ".count");
  const said = (number, one, many) => `${number} ${number === 1 ? one : many}`;

  const cards = every(list, ".card").map((node) => {
    const drawn = new Map(every(node, ".instance").map((mark) => [mark.dataset.at, mark]));
    const instances = every(node, ".instances li").map((item, index) => ({
      item,
      mark: drawn.get(String(index)),
      label: Number(item.dataset.class),
      score: Number(item.dataset.score),
    }));
    return {
      node, instances,
      name: node.dataset.name.toLowerCase(), place: Number(node.dataset.place),
      number: node.querySelector(".number"), best: node.querySelector(".best"),
    };
  });

  const orders = {
    name: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }) || a.place - b.place,
    score: (a, b) => b.top - a.top || a.place - b.place,
    number: (a, b) => b.left - a.left || a.place - b.place,
  };

  function update() {
    const least = Number(at("score").value), wanted = at("text").value.trim().toLowerCase();
    const chosen = boxes.map((box) => box.checked), found = boxes.map(() => 0);
    let images = 0, total = 0;
    for (const card of cards) {
      card.left = 0;
      card.top = -1;
      const named = card.name.includes(wanted);
      for (const { item, mark, label, score } of card.instances) {
        // At its lowest the slider lets all through, whatever its steps make of the score.
        const enough = score >= least || at("score").value === at("score").min;
        if (named && enough) found[label] += 1;
        const stays = enough && chosen[label];
        item.hidden = !stays;
        if (mark) mark.classList.toggle("out", !stays);
        if (stays) {
          card.left += 1;
          card.top = Math.max(card.top, score);
        }
      }
      card.node.hidden = !named || (at("hide").checked && card.left === 0);
      if (card.number) {
        card.number.textContent = card.left === card.instances.length
          ? said(card.left, "instance", "instances")
          : `${card.left} of ${said(card.instances.length, "instance", "instances")}`;
        card.best.textContent = card.left ? `best ${card.top.toFixed(2)}` : "";
      }
      if (!card.node.hidden) {
        images += 1;
        total += card.left;
      }
    }
    found.forEach((number, index) => {
      counts[index].textContent = number;
      counts[index].parentElement.classList.toggle("nothing", number === 0);
    });
    at("score-shown").textContent = least.toFixed(2);
    for (const kind of ["boxes", "labels"]) document.body.classList.toggle(`with-${kind}`, at(kind).checked);
    document.body.classList.toggle("no-masks", !at("masks").checked);
    const sorted = [...cards].sort(orders[at("sort").value]);
    if (sorted.some((card, index) => list.children[index] !== card.node)) list.append(...sorted.map((card) => card.node));
    status.textContent = `${said(total, "instance", "instances")} in ${images} of ${said(cards.length, "image", "images")}`;
    at("nothing").hidden = images > 0 || cards.length === 0;
  }

  let waiting = 0;
  function later() {
    clearTimeout(waiting);
    waiting = setTimeout(update);
  }

  function choose(checked) {
    for (const box of boxes) box.checked = checked;
    update();
  }

  // An instance in a list marks its mask: while the pointer or the focus is on it, and for good once it is pressed.
  function link(where) {
    const marks = new Map(every(where, ".instance").map((mark) => [mark.dataset.at, mark]));
    every(where, ".instances li").forEach((item, index) => {
      const mark = marks.get(String(index)), button = item.querySelector("button");
      if (!mark) return;
      const show = (on) => mark.classList.toggle("marked", on || button.getAttribute("aria-pressed") === "true");
      for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => show(true));
      for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => show(false));
      button.addEventListener("click", () => {
        button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
        show(true);
      });
    });
  }

  const sizes = new ResizeObserver((changes) => {
    for (const { target, contentRect } of changes) {
      if (contentRect.width) target.style.setProperty("--u", target.viewBox.baseVal.width / contentRect.width);
    }
  });

  let open = null;
  function enlarge(card) {
    open = card;
    at("large-title").textContent = card.node.dataset.name;
    const parts = [".picture", ".instances"].map((part) => card.node.querySelector(part)).filter(Boolean);
    at("stage").replaceChildren(...parts.map((part) => part.cloneNode(true)));
    const picture = at("stage").querySelector(".picture");
    const image = picture.querySelector("img"), side = (name) => Number(image.getAttribute(name));
    for (const name of ["role", "tabindex", "aria-label"]) picture.removeAttribute(name);
    picture.style.setProperty("--ratio", String(side("width") / side("height")));
    // A small picture does not become larger than it can bear.
    picture.style.setProperty("--most", `${Math.max(480, 1.5 * side("width"))}px`);
    sizes.observe(picture.querySelector("svg"));
    link(at("stage"));
    if (!dialog.open) dialog.showModal();
  }
  function step(by) {
    const shown = every(list, ".card:not([hidden])").map((node) => cards.find((card) => card.node === node));
    const pictured = shown.filter((card) => card.node.querySelector(".picture"));
    const next = pictured[(pictured.indexOf(open) + by + pictured.length) % pictured.length];
    if (next) enlarge(next);
  }

  for (const card of cards) {
    link(card.node);
    const picture = card.node.querySelector(".picture");
    if (!picture) continue;
    sizes.observe(picture.querySelector("svg"));
    picture.tabIndex = 0;
    picture.setAttribute("role", "button");
    picture.setAttribute("aria-label", `Enlarge: ${picture.querySelector("img").alt}`);
    picture.addEventListener("click", () => enlarge(card));
    picture.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      enlarge(card);
    });
  }
  at("previous").addEventListener("click", () => step(-1));
  at("next").addEventListener("click", () => step(1));
  at("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  at("all").addEventListener("click", () => choose(true));
  at("none").addEventListener("click", () => choose(false));
  form.addEventListener("input", later);
  form.addEventListener("change", later);
  form.addEventListener("reset", () => setTimeout(update));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  update();
})();
