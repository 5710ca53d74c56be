import { join } from 'node:path';

/** Where our pages and their assets are. */
export const PAGE_FOLDER = join(import.meta.dirname, 'page');

const ESCAPES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** Puts escaped values in the places marked `{{name}}` of one of our pages. */
export function renderPage(html: string, values: Readonly<Record<string, string>>): string {
  const escape = (text: string) => text.replaceAll(/[&<>"']/g, (sign) => ESCAPES[sign] ?? sign);
  return html.replaceAll(/\{\{(\w+)\}\}/g, (_, name: string) => escape(values[name] ?? ''));
}
