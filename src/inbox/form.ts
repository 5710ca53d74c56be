import { isRecord } from '../json.ts';
import { parseJsonValues, toRecords } from './parse.ts';

/**
 * In which of the known envelopes a body comes, in words; nothing of its contents but the name of the
 * field that wraps them.
 * @throws UnreadableDelivery where it is not JSON
 */
export function describeForm(body: Buffer): string {
  const values = parseJsonValues(body);
  const [value] = values;
  if (values.length > 1) return `${values.length} records, one a line`;
  if (Array.isArray(value)) return `an array of ${countOf(value.length)}`;
  if (!isRecord(value)) return 'a single value that is no record';
  const records = toRecords(value);
  const [first] = records;
  if (first === value) return isExcerpt(value) ? 'only the data of a record' : 'a single record';
  const field = Object.keys(value).find((key) => value[key] === records || value[key] === first);
  return `${countOf(records.length)} in the field "${field ?? 'unknown'}"`;
}

/** Neither action nor moment: what one page of the documentation shows for `UserModified`. */
function isExcerpt(record: Readonly<Record<string, unknown>>): boolean {
  return 'Change' in record && !('action' in record);
}

function countOf(records: number): string {
  return `${records} ${records === 1 ? 'record' : 'records'}`;
}
