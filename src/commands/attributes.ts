import { UsageError } from '../errors.ts';
import {
  addAttribute,
  assertOwner,
  listAttributes,
  removeAttribute,
  withAttributeStore,
  type AttributeStore,
  type ListedAttribute,
} from '../mirror/attributes.ts';
import {
  ATTRIBUTE_TYPES,
  isAttributeName,
  isAttributeType,
  isColumnName,
  toColumnName,
  type Attribute,
} from '../mirror/attributeTypes.ts';
import { migrateMirror } from '../mirror/migrate.ts';
import { openDatabase } from './openDatabase.ts';
import { layOut } from './table.ts';

import type { CommandContext, CommandOptions, ExitCode } from './command.ts';

/** `rollcall attributes add|list|remove`: custom attributes as typed columns of a view. */
export async function run(context: CommandContext, options: CommandOptions): Promise<ExitCode> {
  const change = toChange(options);
  const database = await openDatabase(context);
  const where = { databaseUrl: database.url, schema: context.config.MIRROR_SCHEMA };
  try {
    await withAttributeStore(where, assertOwner);
    await migrateMirror(where);
    await withAttributeStore(where, (store) => change(store, context));
    return 0;
  } finally {
    await database.stop();
  }
}

type Change = (store: AttributeStore, context: CommandContext) => Promise<void>;

/** What was asked for, checked before anything is opened. */
function toChange(options: CommandOptions): Change {
  const { action, name } = options;
  if (action === 'list') return list;
  if (typeof name !== 'string') throw new UsageError('attributes: say add, list or remove');
  if (action === 'remove') return (store, context) => remove(store, context, name);
  const asked = toAttribute(name, options);
  return (store, context) => add(store, context, asked);
}

function toAttribute(name: string, { type, as, index }: CommandOptions): Attribute {
  if (!isAttributeName(name)) {
    throw new UsageError(
      'the name of an attribute has letters, digits and _ - . : within, 100 at most',
    );
  }
  if (typeof type !== 'string' || !isAttributeType(type)) {
    throw new UsageError(`the type of an attribute is one of ${ATTRIBUTE_TYPES.join(', ')}`);
  }
  const column = typeof as === 'string' ? as : toColumnName(name);
  if (!isColumnName(column)) {
    const remedy = typeof as === 'string' ? '' : ': give it one with --as';
    throw new UsageError(
      `the name of a column has a-z, 0-9 and _, no digit first, 50 at most${remedy}`,
    );
  }
  return { name, column, type, indexed: index === true };
}

async function add(
  store: AttributeStore,
  context: CommandContext,
  asked: Attribute,
): Promise<void> {
  if (asked.indexed) context.stderr('building the index; nobody has to wait for it');
  await addAttribute(store, asked);
  const added = (await listAttributes(store)).find(({ name }) => name === asked.name);
  if (context.json) context.stdout(JSON.stringify({ added }));
  else {
    const how = added?.index === 'ready' ? 'with an index' : 'without an index';
    context.stdout(
      `${asked.name} is the column ${asked.column} of ${store.schema}.live_users_with_attributes, ${how}`,
    );
  }
}

async function list(store: AttributeStore, context: CommandContext): Promise<void> {
  const attributes = await listAttributes(store);
  if (context.json) context.stdout(JSON.stringify({ attributes }));
  else if (attributes.length === 0) context.stdout('no attributes were added');
  else {
    const { screen } = context;
    const rows = [['attribute', 'column', 'type', 'index'].map(screen.paint.bold)];
    for (const line of layOut([...rows, ...attributes.map(toRow)], screen)) context.stdout(line);
  }
}

const toRow = ({ name, column, type, index }: ListedAttribute): string[] => [
  ...[name, column, type],
  index === 'broken' ? 'interrupted: add it again' : index,
];

async function remove(store: AttributeStore, context: CommandContext, name: string): Promise<void> {
  await removeAttribute(store, name);
  context.stdout(context.json ? JSON.stringify({ removed: name }) : `${name} is removed`);
}
