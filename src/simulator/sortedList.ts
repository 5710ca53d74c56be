/** Half of a block's most: small enough to shift quickly, large enough to keep blocks few. */
const HALF_BLOCK = 512;

/**
 * Items in order, in blocks: inserting, removing and counting up to a key stay cheap at a million
 * items, where one flat array would shift megabytes on every change.
 */
export class SortedList<T> {
  private readonly blocks: T[][] = [];
  private readonly compare: (a: T, b: T) => number;
  private count = 0;

  /** `items` need not be sorted. `compare` is a total order: equal means the same item. */
  constructor(items: T[], compare: (a: T, b: T) => number) {
    this.compare = compare;
    items.sort(compare);
    for (let start = 0; start < items.length; start += HALF_BLOCK) {
      this.blocks.push(items.slice(start, start + HALF_BLOCK));
    }
    this.count = items.length;
  }

  get length(): number {
    return this.count;
  }

  insert(item: T): void {
    const at = this.blockOf((first) => this.compare(first, item) <= 0);
    const block = this.blocks[at];
    this.count++;
    if (!block) {
      this.blocks.push([item]);
      return;
    }
    block.splice(
      partition(block, (other) => this.compare(other, item) < 0),
      0,
      item,
    );
    if (block.length > 2 * HALF_BLOCK) this.blocks.splice(at + 1, 0, block.splice(HALF_BLOCK));
  }

  /** Removes the item equal to `item`; false where there is none. */
  remove(item: T): boolean {
    const at = this.blockOf((first) => this.compare(first, item) <= 0);
    const block = this.blocks[at];
    if (!block) return false;
    const within = partition(block, (other) => this.compare(other, item) < 0);
    const found = block[within];
    if (found === undefined || this.compare(found, item) !== 0) return false;
    block.splice(within, 1);
    if (block.length === 0) this.blocks.splice(at, 1);
    this.count--;
    return true;
  }

  /** How many items come before the first one for which `isBefore` is false. */
  rank(isBefore: (item: T) => boolean): number {
    const at = this.blockOf(isBefore);
    const block = this.blocks[at];
    if (!block) return 0;
    let before = 0;
    for (let index = 0; index < at; index++) before += this.blocks[index]?.length ?? 0;
    return before + partition(block, isBefore);
  }

  /** The items at positions `from` to `to` - 1. */
  slice(from: number, to: number): T[] {
    const items: T[] = [];
    let start = 0;
    for (const block of this.blocks) {
      if (start >= to) break;
      if (start + block.length > from) {
        for (const item of block.slice(Math.max(0, from - start), to - start)) items.push(item);
      }
      start += block.length;
    }
    return items;
  }

  at(position: number): T | undefined {
    return this.slice(position, position + 1)[0];
  }

  /** The last block whose first item is before; the first block where none is. */
  private blockOf(isBefore: (item: T) => boolean): number {
    const beyond = partition(this.blocks, (block) => block[0] !== undefined && isBefore(block[0]));
    return Math.max(0, beyond - 1);
  }
}

/** The position of the first item for which `isBefore` is false, in an array where all true come first. */
export function partition<T>(items: readonly T[], isBefore: (item: T) => boolean): number {
  let low = 0;
  let high = items.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const item = items[middle];
    if (item !== undefined && isBefore(item)) low = middle + 1;
    else high = middle;
  }
  return low;
}
