// Turns what the API says into words. Pure: no page, no clock but the one given.

export const DASH = '–';

export function count(value) {
  return typeof value === 'number' ? Math.round(value).toLocaleString('en') : DASH;
}

/** "1 event", "2 events"; for nouns that take an s. */
export function counted(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? '' : 's'}`;
}

/** 0.1023 → "10.2 %"; a share that is not quite nothing is never shown as nothing. */
export function percent(share) {
  if (typeof share !== 'number') return DASH;
  if (share > 0 && share < 0.001) return '< 0.1 %';
  return `${(share * 100).toFixed(share >= 0.9995 || share === 0 ? 0 : 1)} %`;
}

/** As the server puts it: coarser the longer. */
export function duration(seconds) {
  if (typeof seconds !== 'number') return DASH;
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 120) return `${whole} s`;
  if (whole < 7_200) return `${Math.round(whole / 60)} min`;
  if (whole < 172_800) return `${Math.round(whole / 3_600)} h`;
  return `${Math.round(whole / 86_400)} days`;
}

/** Short ones with a digit after the point: "0.4 s". */
export function delay(seconds) {
  if (typeof seconds !== 'number' || seconds >= 10) return duration(seconds);
  return `${Math.max(0, seconds).toFixed(1)} s`;
}

/** Null where it is none. Postgres prints zones as +00, which not every browser reads. */
export function toDate(instant) {
  if (instant === null || instant === undefined || instant === '') return null;
  if (typeof instant === 'number') return new Date(instant);
  const text = String(instant).replace(' ', 'T');
  const date = new Date(text.replace(/([+-]\d\d)$/, '$1:00'));
  return Number.isNaN(date.getTime()) ? null : date;
}

/** "12 s ago", "in 5 min", "now". */
export function ago(date, nowMs = Date.now()) {
  const seconds = (nowMs - date.getTime()) / 1000;
  // The two clocks differ a little, and nothing here is told ahead of its time.
  if (Math.abs(seconds) < 1) return 'now';
  return seconds > 0 ? `${duration(seconds)} ago` : `in ${duration(-seconds)}`;
}

const FULL = new Intl.DateTimeFormat('en-GB', {
  dateStyle: 'medium',
  timeStyle: 'long',
});
const CLOCK = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' });
const CLOCK_SECONDS = new Intl.DateTimeFormat('en-GB', { timeStyle: 'medium' });
const DAY = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' });

/** "8 Jun 2026, 20:18:25 UTC", in the zone of whoever looks. */
export const full = (date) => FULL.format(date);

/** "20:18" within a day, else "8 Jun". */
export function tick(date, hours) {
  return hours > 48 ? DAY.format(date) : CLOCK.format(date);
}

/** "20:18", or "8 Jun, 20:18" where the day does not go without saying. */
export function moment(date, hours) {
  return hours > 24 ? `${DAY.format(date)}, ${CLOCK.format(date)}` : CLOCK.format(date);
}

/** "20:18:25", of another day "8 Jun, 20:18:25". */
export function precise(date, now = new Date()) {
  const clock = CLOCK_SECONDS.format(date);
  return date.toDateString() === now.toDateString() ? clock : `${DAY.format(date)}, ${clock}`;
}
