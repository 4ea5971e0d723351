// How the status page says things, and makes elements of them.

export function duration(ms) {
  if (ms < 1) return `${ms.toFixed(2)} ms`;
  if (ms < 100) return `${ms.toFixed(1)} ms`;
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1_000;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3_600)} h ${Math.floor((seconds % 3_600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3_600)} h`;
}

export function bytes(count) {
  const units = ['B', 'KB', 'MB', 'GB', 'TB'];
  const unit = Math.min(Math.floor(Math.log10(Math.max(count, 1)) / 3), units.length - 1);
  return unit === 0 ? `${count} B` : `${(count / 1_000 ** unit).toFixed(1)} ${units[unit]}`;
}

export const count = new Intl.NumberFormat('en');

/** A rate with about two digits, or more where they are whole. */
export function rate(perSecond) {
  if (perSecond === 0 || perSecond >= 9.95) return count.format(Math.round(perSecond));
  return perSecond < 0.095 ? perSecond.toFixed(2) : perSecond.toFixed(1);
}

/** A name that a client has chosen, with all that cannot be seen, or that would reorder what is, as its code. */
export function plain(name) {
  const code = (found) => `\\u{${found.codePointAt(0).toString(16)}}`;
  return name.replace(/[\p{Cc}\p{Cf}\p{Cn}\p{Co}\p{Cs}\p{Zl}\p{Zp}]/gu, code);
}

export function element(name, className, text = '') {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

export const plural = (number, one, others) => `${count.format(number)} ${number === 1 ? one : others}`;

/** A text that stays as it is is not written again, so that what a reader has selected stays selected. */
export function setText(of, text) {
  if (of.textContent !== text) of.textContent = text;
}

/** A cell of a table. With a label it is a figure, which shows that label where there are no columns. */
export function cell(className, label) {
  const made = element('td', label ? `${className} number` : className);
  made.setAttribute('role', 'cell');
  if (label) made.dataset.label = label;
  return made;
}
