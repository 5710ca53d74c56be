import { createServer } from 'node:http';

import { generateContent } from '../src/simulator/generate.ts';
import { serve } from './programs.ts';

import type { AddressInfo } from 'node:net';

/*
 * The least of Stripe that the peer asks for when it fills its customers: the list, cut at 100, and one
 * customer by id. Each is made from the same generated person as the simulated Descope's user, so that
 * both sources work as hard for a page.
 */

const SEED = 7;
const MOST = 100;
/** Customers of a directory two years old, one a minute. */
const FIRST_CREATED = 1_700_000_000;

let customers = 0;
let latencyMs = 0;

function customerIdOf(serial: number): string {
  return `cus_${String(serial).padStart(14, '0')}`;
}

/** A customer as the API answers it, of about the size of the simulated Descope's users. */
function customerOf(serial: number): Record<string, unknown> {
  const person = generateContent(SEED, serial);
  const { name, email, phone, customAttributes, userTenants, loginIds, picture, status } = person;
  return {
    id: customerIdOf(serial),
    object: 'customer',
    address: {
      city: null,
      country: 'US',
      line1: null,
      line2: null,
      postal_code: null,
      state: null,
    },
    balance: 0,
    created: FIRST_CREATED + serial * 60,
    currency: 'usd',
    default_source: null,
    delinquent: false,
    description: `${name}, ${status}`,
    discount: null,
    email,
    invoice_prefix: String(serial).padStart(8, '0'),
    invoice_settings: {
      custom_fields: null,
      default_payment_method: null,
      footer: null,
      rendering_options: null,
    },
    livemode: false,
    metadata: {
      loginIds: loginIds.join(),
      picture,
      tenants: JSON.stringify(userTenants),
      ...Object.fromEntries(
        Object.entries(customAttributes).map(([key, value]) => [key, JSON.stringify(value)]),
      ),
    },
    name,
    next_invoice_sequence: 1,
    phone,
    preferred_locales: ['en'],
    shipping: null,
    tax_exempt: 'none',
    test_clock: null,
  };
}

function serialOf(customerId: string | null): number {
  return Number(customerId?.slice('cus_'.length) ?? 0);
}

function answer(url: URL): unknown {
  const id = /^\/v1\/customers\/(cus_\d+)$/.exec(url.pathname)?.[1];
  if (id !== undefined) return customerOf(serialOf(id));
  const after = serialOf(url.searchParams.get('starting_after'));
  const limit = Math.min(MOST, Number(url.searchParams.get('limit') ?? 10));
  const count = Math.max(0, Math.min(limit, customers - after));
  return {
    object: 'list',
    url: '/v1/customers',
    has_more: after + count < customers,
    data: Array.from({ length: count }, (_, at) => customerOf(after + at + 1)),
  };
}

const server = createServer((request, response) => {
  request.resume();
  const text = JSON.stringify(answer(new URL(request.url ?? '/', 'http://stripe')));
  const send = () => {
    response.writeHead(200, {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(text),
    });
    response.end(text);
  };
  if (latencyMs === 0) send();
  else setTimeout(send, latencyMs);
});
server.keepAliveTimeout = 65_000;

const functions = {
  async start(asked: { readonly customers: number; readonly latencyMs: number }) {
    ({ customers, latencyMs } = asked);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return { port: (server.address() as AddressInfo).port };
  },
  customersFrom: (asked: { readonly count: number }) =>
    Array.from({ length: asked.count }, (_, at) => customerOf(at + 1)),
};
export type FakeStripeApi = typeof functions;

serve(functions);
