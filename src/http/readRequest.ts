import type { Response } from 'express';
import type { z } from 'zod';

/**
 * A query or a body as `schema` has it; undefined once it was refused: with 400, and one line that names
 * what is wrong and not what was sent.
 */
export function readRequest<T>(
  schema: z.ZodType<T>,
  given: unknown,
  response: Response,
): T | undefined {
  const parsed = schema.safeParse(given ?? {});
  if (parsed.success) return parsed.data;
  const mistakes = parsed.error.issues.map(({ path, message }) =>
    path.length === 0 ? message : `${path.join('.')}: ${message}`,
  );
  response.status(400).json({ error: [...new Set(mistakes)].join('; ') });
  return undefined;
}

/** Postgres has no text with a NUL in it. */
export function isStorable(text: string): boolean {
  return !text.includes('\0');
}
