// Builds the parts of a page. Text is only ever set as text, never as HTML.

import { ago, DASH, full, precise, toDate } from './format.js';

export const find = (id) => document.getElementById(id);

/** An element with these properties or attributes, around these nodes and texts. */
export function make(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** Sets a text where it differs: what is selected or read aloud is left alone. */
export function setText(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

/** Whether somebody points at it or is in it: what moves away from under them cannot be used. */
export function isInUse(place) {
  // A finger leaves its "hover" behind.
  const canPoint = matchMedia('(hover: hover)').matches;
  return place.matches(':focus-within') || (canPoint && place.matches(':hover'));
}

/** A relative time, the absolute one in its title; a dash where there is none. */
export function timeOf(instant) {
  const date = toDate(instant);
  if (date === null) return DASH;
  return make(
    'time',
    { dateTime: date.toISOString(), title: full(date), 'data-ago': '' },
    ago(date),
  );
}

/** Relative times go on while a page is looked at. */
export function keepTimesFresh(everyMs = 1_000) {
  setInterval(() => {
    for (const time of document.querySelectorAll('time[data-ago]')) {
      setText(time, ago(new Date(time.dateTime)));
    }
  }, everyMs);
}

const INSTANT = /\d{4}-\d\d-\d\dT[\d:.]+Z/g;

/** A sentence with its instants put as a person says them, whole in their titles. */
export function readable(text) {
  const parts = [];
  let from = 0;
  for (const { 0: instant, index } of text.matchAll(INSTANT)) {
    const date = toDate(instant);
    const said = make('time', { dateTime: instant, title: full(date) }, precise(date));
    parts.push(text.slice(from, index), said);
    from = index + instant.length;
  }
  return [...parts, text.slice(from)];
}

/** A user's id, which leads to their story. */
export function userLink(userId) {
  return make('a', { href: `/users#${encodeURIComponent(userId)}`, className: 'code' }, userId);
}

/** The user whose id the address holds; '' where it holds none. `#main` is where "skip" leads to. */
export function userInAddress() {
  const text = location.hash.slice(1);
  if (text === 'main') return '';
  try {
    return decodeURIComponent(text);
  } catch {
    return '';
  }
}

/**
 * A table's row. A column is its label, what it shows of an item, and a class; on a phone the label
 * stands before each value.
 */
export function rowOf(item, columns) {
  const cells = columns.map(([label, show, className]) =>
    make('td', { 'data-label': label, className: className ?? '' }, show(item)),
  );
  return make('tr', {}, cells);
}

/** The rows of a table; one that says `none` where there are none. */
export function showRows(body, items, columns, none = 'none yet') {
  const rows = items.map((item) => rowOf(item, columns));
  const empty = make('td', { colSpan: columns.length, className: 'quiet' }, none);
  body.replaceChildren(...(rows.length === 0 ? [make('tr', {}, empty)] : rows));
}

/** Pairs of a term and what is to be said of it; null leaves one out. */
export function showFacts(list, facts) {
  const pairs = facts.filter(([, value]) => value !== null);
  list.replaceChildren(
    ...pairs.map(([term, value]) => make('div', {}, make('dt', {}, term), make('dd', {}, value))),
  );
}

/** One line that went well, read aloud; it takes the place of an error. */
export function say(text) {
  setText(find('error'), '');
  setText(find('notice'), text);
}

/** One line that did not, read aloud. */
export function complain(error) {
  setText(find('notice'), '');
  setText(find('error'), error.message);
}

/** Runs what a button or form asks for: busy while it lasts, one clear line where it fails. */
export async function doing(controls, work) {
  setText(find('error'), '');
  for (const control of controls) control.disabled = true;
  document.body.setAttribute('aria-busy', 'true');
  try {
    await work();
  } catch (error) {
    complain(error);
  } finally {
    for (const control of controls) control.disabled = false;
    document.body.removeAttribute('aria-busy');
  }
}
