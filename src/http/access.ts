import { createHmac } from 'node:crypto';
import { isIP } from 'node:net';

import { isSameSecret } from '../webhook/authenticate.ts';

import type { NextFunction, Request, Response } from 'express';
import type { IncomingHttpHeaders } from 'node:http';

/*
 * Who may use the admin port (guarantee G9): with a token, whoever brings it; without one, only pages
 * opened under a loopback name. The second keeps other web sites out, which could point a name of their
 * own at 127.0.0.1 and read the answers in a visitor's browser. What changes something is asked for by a
 * page of ours or by a program, never by another site's page.
 */

export const SESSION_COOKIE = 'rollcall_admin';
const LOOPBACK_NAMES = new Set(['localhost', '127.0.0.1', '[::1]']);

/** What the cookie holds: it proves the token was known, and ends with it, without being the token. */
export function toSession(token: string): string {
  return createHmac('sha256', token).update('rollcall admin session').digest('base64url');
}

function readCookie(headers: IncomingHttpHeaders, name: string): string {
  const pairs = (headers.cookie ?? '').split(';').map((pair) => pair.trim());
  return pairs.find((pair) => pair.startsWith(`${name}=`))?.slice(name.length + 1) ?? '';
}

function readBearer({ authorization = '' }: IncomingHttpHeaders): string {
  return (/^bearer +(.+)$/i.exec(authorization)?.[1] ?? '').trim();
}

/** Whether a request brings the token, as a bearer or as the cookie that `POST /login` sets. */
export function hasToken(headers: IncomingHttpHeaders, token: string): boolean {
  const isBearer = isSameSecret(readBearer(headers), token);
  return isSameSecret(readCookie(headers, SESSION_COOKIE), toSession(token)) || isBearer;
}

/** What a request brings to be let in, right or wrong; '' where nothing. */
export function credentialOf(headers: IncomingHttpHeaders): string {
  return [readBearer(headers), readCookie(headers, SESSION_COOKIE)].join(' ').trim();
}

/** Whether a request was made to a loopback name, or to the very host the server was told to be. */
export function isLocalHost(hostHeader: string | undefined, host: string): boolean {
  const name = hostnameOf(`http://${hostHeader ?? ''}`);
  const own = isIP(host) === 6 ? `[${host}]` : host.toLowerCase();
  return LOOPBACK_NAMES.has(name) || name === own;
}

/**
 * Whether a request comes from a page of this very server, as far as its browser says; programs say nothing,
 * and pass. What a browser knows of the two sites counts before what we can tell: a proxy may have changed
 * the name.
 */
export function isSameOrigin(headers: IncomingHttpHeaders): boolean {
  const site = headers['sec-fetch-site'];
  // "none": typed or bookmarked by the person.
  if (site !== undefined) return site === 'same-origin' || site === 'none';
  const { origin, host = '' } = headers;
  if (origin === undefined) return true;
  if (!URL.canParse(origin)) return false;
  const { protocol, host: ofPage } = new URL(origin);
  const own = `${protocol}//${host}`;
  return URL.canParse(own) && new URL(own).host === ofPage;
}

/** Answers 403 to what a browser sends on behalf of another site. */
export function refuseOtherSites(request: Request, response: Response, next: NextFunction): void {
  if (isSameOrigin(request.headers)) next();
  else response.status(403).json({ error: 'another site may not ask for this' });
}

function hostnameOf(url: string): string {
  return URL.canParse(url) ? new URL(url).hostname : '';
}
