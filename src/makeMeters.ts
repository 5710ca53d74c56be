import { Counter, Gauge, Histogram, type Registry } from 'prom-client';

/** The labels of a meter, each with every value it can have. */
export type Labels = Readonly<Record<string, readonly string[]>>;

export type Makers = ReturnType<typeof createMakers>;

/** Makes meters, and keeps the values of their labels by the meter's name. */
export function createMakers(registry: Registry) {
  const labels = new Map<string, Labels>();
  const registers = [registry];
  const describe = <L extends Labels>(name: string, help: string, values: L) => {
    labels.set(name, values);
    return { name, help, labelNames: Object.keys(values) as (keyof L & string)[], registers };
  };
  return {
    labels: labels as ReadonlyMap<string, Labels>,
    counter: <L extends Labels>(name: string, help: string, values: L) =>
      new Counter(describe(name, help, values)),
    gauge: <L extends Labels>(name: string, help: string, values: L) =>
      new Gauge(describe(name, help, values)),
    histogram: <L extends Labels>(name: string, help: string, buckets: number[], values: L) =>
      new Histogram({ ...describe(name, help, values), buckets }),
  };
}
