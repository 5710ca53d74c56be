/* Why a swap has not happened. Nothing has been done then. */

/** The tables cannot be swapped; `obstacles` are the reasons, a line each. */
export class CannotSwap extends Error {
  readonly obstacles: readonly string[];

  constructor(obstacles: readonly string[]) {
    super(`users and user_tenants cannot be swapped: ${obstacles.join('; ')}`);
    this.name = 'CannotSwap';
    this.obstacles = obstacles;
  }
}

/** What a rebuild has replaced cannot be dropped; `keepers` are the reasons, a line each. */
export class CannotDrop extends Error {
  constructor(keepers: readonly string[]) {
    super(`tables that a rebuild has left cannot be dropped: ${keepers.join('; ')}`);
    this.name = 'CannotDrop';
  }
}

/** Something is to be looked at again before it. */
export class Unsettled extends Error {
  constructor() {
    super(
      'nothing was swapped: users were written meanwhile who have to be looked at. Run it again',
    );
    this.name = 'Unsettled';
  }
}

/** Whoever reads the tables, or could still ask for them as they were, did not make room in time. */
export class ReadersBusy extends Error {
  constructor(pids: readonly number[] = []) {
    const which = pids.length === 0 ? '' : ` (in pg_stat_activity: pid ${pids.join(', ')})`;
    super(
      `nothing was swapped: others have had a transaction open for too long${which}. ` +
        'End it, and run it again: what was read is kept',
    );
    this.name = 'ReadersBusy';
  }
}
