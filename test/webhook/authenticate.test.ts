import { createHmac } from 'node:crypto';

import { describe, expect, test } from 'vitest';

import {
  authenticate,
  findSigning,
  SIGNATURE_HEADER,
  type WebhookAuthentication,
} from '../../src/webhook/authenticate.ts';

const nothingSet: WebhookAuthentication = {
  hmacSecrets: [],
  bearerTokens: [],
  basic: null,
  apiKey: null,
  allowUnauthenticated: false,
};
const body = Buffer.from('{ "action": "UserCreated",  "name": "Zoë <z&z>" }');
const sign = (secret: string, signed: string | Buffer, encoding: 'base64' | 'base64url' | 'hex') =>
  createHmac('sha256', secret).update(signed).digest(encoding);
const signed = (signature: string) => ({ [SIGNATURE_HEADER]: signature });

describe('HMAC', () => {
  const settings = { ...nothingSet, hmacSecrets: ['old secret', 'new secret'] };
  const stringified = JSON.stringify(JSON.parse(body.toString()));

  test.each([
    ['the raw body', body],
    ['the body written anew', stringified],
    ['the base64 of the body', body.toString('base64')],
  ])('a signature over %s is accepted, by any live secret', (_, bytes) => {
    for (const secret of settings.hmacSecrets) {
      for (const encoding of ['base64', 'base64url', 'hex'] as const) {
        const headers = signed(sign(secret, bytes, encoding));
        expect(authenticate(headers, body, settings)).toBe('ok');
        const prefixed = signed(`sha256=${sign(secret, bytes, encoding)}`);
        expect(authenticate(prefixed, body, settings)).toBe('ok');
      }
    }
  });

  test.each([
    ['no signature', {}],
    ['an empty signature', signed('')],
    ['a signature by another secret', signed(sign('other', body, 'base64'))],
    ['a signature over another body', signed(sign('new secret', 'other', 'base64'))],
    ['a cut signature', signed(sign('new secret', body, 'base64').slice(0, 20))],
    ['a longer signature', signed(sign('new secret', body, 'base64') + 'AAAA')],
    ['the secret itself', signed('new secret')],
    ['a prefix alone', signed('sha256=')],
    ['another algorithm', signed(`sha1=${sign('new secret', body, 'hex')}`)],
  ])('%s is refused', (_, headers) => {
    expect(authenticate(headers, body, settings)).toBe('refused');
  });

  test('a body that is not JSON is checked as it is', () => {
    const junk = Buffer.from([0xff, 0x00, 0x7b]);
    const headers = signed(sign('old secret', junk, 'base64'));
    expect(authenticate(headers, junk, settings)).toBe('ok');
    expect(authenticate(signed(sign('no', junk, 'base64')), junk, settings)).toBe('refused');
  });

  test('the secret and the signed bytes that fit can be told', () => {
    const signature = sign('new secret', stringified, 'base64');
    expect(findSigning(body, signature, settings.hmacSecrets)).toEqual({
      mode: 'stringified',
      secretIndex: 1,
    });
    expect(findSigning(body, signature, ['old secret'])).toBeNull();
  });
});

const basicOf = (text: string) => `Basic ${Buffer.from(text).toString('base64')}`;

describe('other authentications', () => {
  const bearer = { ...nothingSet, bearerTokens: ['one', 'two'] };
  const basic = { ...nothingSet, basic: { name: 'ada', value: 'pass:word' } };
  const apiKey = { ...nothingSet, apiKey: { name: 'X-Api-Key', value: 'k3y' } };

  test.each([
    ['the first bearer token', bearer, { authorization: 'Bearer one' }, 'ok'],
    ['the second bearer token', bearer, { authorization: 'bearer two' }, 'ok'],
    ['another bearer token', bearer, { authorization: 'Bearer three' }, 'refused'],
    ['a bearer token under another scheme', bearer, { authorization: 'Basic one' }, 'refused'],
    ['no bearer token', bearer, {}, 'refused'],
    ['the user and password', basic, { authorization: basicOf('ada:pass:word') }, 'ok'],
    ['another password', basic, { authorization: basicOf('ada:password') }, 'refused'],
    ['no user', basic, {}, 'refused'],
    ['the API key', apiKey, { 'x-api-key': 'k3y' }, 'ok'],
    ['another API key', apiKey, { 'x-api-key': 'K3Y' }, 'refused'],
    ['no API key', apiKey, {}, 'refused'],
  ] as const)('%s', (_, settings, headers, expected) => {
    expect(authenticate(headers, body, settings)).toBe(expected);
  });

  test('everything that is set must match', () => {
    const settings = { ...apiKey, hmacSecrets: ['secret'] };
    const signature = signed(sign('secret', body, 'base64'));
    expect(authenticate({ ...signature, 'x-api-key': 'k3y' }, body, settings)).toBe('ok');
    expect(authenticate(signature, body, settings)).toBe('refused');
    expect(authenticate({ 'x-api-key': 'k3y' }, body, settings)).toBe('refused');
  });

  test('with nothing set, deliveries are refused unless that was allowed (G9)', () => {
    expect(authenticate({}, body, nothingSet)).toBe('refused');
    expect(authenticate({}, body, { ...nothingSet, allowUnauthenticated: true })).toBe('ok');
  });

  test('allowing the unauthenticated does not weaken what is set', () => {
    expect(authenticate({}, body, { ...bearer, allowUnauthenticated: true })).toBe('refused');
  });
});
