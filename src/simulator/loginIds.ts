import { serialOf, userIdOf } from './generate.ts';

/** Who was given which login id: generated ones follow from the seed, the others are kept. */
export class LoginIds {
  private readonly seed: number;
  /** Who was last given a login id that was not generated. */
  private readonly holders = new Map<string, string>();

  constructor(seed: number) {
    this.seed = seed;
  }

  /** Ids of users who may have this login id; nobody else has. */
  likelyHolders(loginId: string): string[] {
    const given = this.holders.get(loginId);
    const serial = serialOf(loginId);
    const generated = serial === undefined ? [] : [userIdOf(this.seed, serial)];
    return given === undefined ? generated : [given, ...generated];
  }

  /**
   * Gives login ids to a user; `hasNow` tells who has which among live users, where they are unique.
   * @throws Error where another user has one of them
   */
  claim(
    userId: string,
    loginIds: readonly string[],
    hasNow: (userId: string, loginId: string) => boolean,
  ): void {
    for (const loginId of loginIds) {
      const others = this.likelyHolders(loginId).filter((holderId) => holderId !== userId);
      if (others.some((holderId) => hasNow(holderId, loginId))) {
        throw new Error(`another user has a login id wanted for ${userId}`);
      }
    }
    for (const loginId of loginIds) this.holders.set(loginId, userId);
  }
}
