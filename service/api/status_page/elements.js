// Builds DOM elements. Text is never parsed as HTML.

/** An element with properties, `data-` and `aria-` attributes and listeners (`onclick`), and its children. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in made && !key.includes("-")) made[key] = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...present(children));
  return made;
}

/** Replace the children of an element. A child that has the focus and stays keeps it. */
export function fill(parent, ...children) {
  const [now, wanted] = [[...parent.childNodes], present(children)];
  if (now.length === wanted.length && now.every((child, index) => child === wanted[index])) return parent;
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  parent.replaceChildren(...wanted);
  if (focused?.isConnected) focused.focus({ preventScroll: true });
  return parent;
}

function present(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** A button that copies the result of `text()` to the clipboard. */
export function copyButton(text, label = "Copy") {
  const button = element("button", { type: "button", className: "quiet" }, label);
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text());
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = label), 1500);
  });
  return button;
}

/** A problem document as an element. */
export function problemBox(problem) {
  return element(
    "div",
    { className: "problem", role: "alert" },
    element("strong", {}, problem.title),
    element("p", {}, problem.message),
    problem.code && element("code", {}, problem.code)
  );
}
