import type { Simulator } from '../../src/simulator/server.ts';

/** What no log, error or queue may show (guarantee G10). */
export interface Secrets {
  /** Which of them a text shows, each once. */
  shownIn(text: string): string[];
}

/** What is longer than this is nobody's by chance; letters beyond ASCII are not in our texts at all. */
const TELLING_CHARS = 6;

/** Gathers what is personal of everyone who is or was in the directory, and the secrets around it. */
export function collectSecrets(
  { directory, managementKey }: Pick<Simulator, 'directory' | 'managementKey'>,
  others: readonly string[],
): Secrets {
  /** Mail addresses, phone numbers, login ids: too many to search one by one, so words are looked up. */
  const words = new Set<string>();
  const names = new Set<string>([...others, managementKey]);
  const gather = () => {
    for (const user of directory.users()) {
      const { email, phone, recoveryEmail, loginIds, externalIds } = user;
      for (const word of [email, phone, recoveryEmail, ...loginIds, ...externalIds]) addWord(word);
      for (const name of [user.name, user.givenName, user.familyName, user.picture]) {
        if (name.length >= TELLING_CHARS || /[^\0-\x7f]/.test(name)) names.add(name);
      }
    }
  };
  const addWord = (word: string) => {
    if (word === '') return;
    words.add(word);
    // An address in a URL is cut at its "%40".
    words.add(word.split('@')[0] ?? word);
  };
  gather();
  directory.onEvent((event) => {
    event.loginIds.forEach(addWord);
  });
  return {
    shownIn(text) {
      gather();
      const said = new Set(text.match(/[\w.+@-]+/g));
      return [
        ...[...said].filter((word) => words.has(word)),
        ...[...names].filter((name) => text.includes(name)),
        // The database's password, or any other in a URL.
        ...(text.match(/:\/\/[^\s/"':@]+:[^\s/"'@]+@/g) ?? []),
      ];
    },
  };
}
