// The boundary between two images that lie one above the other: by mouse, touch and keyboard.

const STEP = 2, LEAP = 10; // percent

/** Moves the boundary in `compare` by its `handle`; returns a function that sets it, in percent. */
export function slider(compare, handle) {
  let at = 50;

  function set(percent) {
    at = Math.min(100, Math.max(0, percent));
    compare.style.setProperty("--at", `${at}%`);
    compare.classList.toggle("far-left", at < 18);
    compare.classList.toggle("far-right", at > 78);
    handle.setAttribute("aria-valuenow", Math.round(at));
    handle.setAttribute("aria-valuetext", `${Math.round(at)} percent of the original`);
  }

  function follow(event) {
    const box = compare.getBoundingClientRect();
    set(100 * (event.clientX - box.left) / box.width);
  }

  compare.addEventListener("pointerdown", (event) => {
    if (event.button || compare.classList.contains("alone")) return;
    compare.setPointerCapture(event.pointerId);
    handle.focus({ preventScroll: true });
    follow(event);
    event.preventDefault();
  });
  compare.addEventListener("pointermove", (event) => {
    if (compare.hasPointerCapture(event.pointerId)) follow(event);
  });

  handle.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? LEAP : STEP;
    const moves = {
      ArrowLeft: at - step, ArrowDown: at - step, ArrowRight: at + step, ArrowUp: at + step,
      PageDown: at - LEAP, PageUp: at + LEAP, Home: 0, End: 100,
    };
    if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
    set(moves[event.key]);
    event.preventDefault();
  });

  set(at);
  return set;
}
