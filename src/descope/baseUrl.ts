/** The region a project id names (`euc1`), read as the SDK reads it; empty where it names none. */
export function regionOf(projectId: string): string {
  return projectId.slice(1, -27);
}

/** Where requests to Descope go, without a slash at the end: the address given, else the project's region's. */
export function baseUrlOf(projectId: string, given: string | undefined): string {
  const region = regionOf(projectId);
  const regional = `https://api.${region === '' ? '' : `${region}.`}descope.com`;
  return (given ?? regional).replace(/\/+$/, '');
}
