import type { CommandDescription } from './command.ts';

/** How `rollcall deliveries` presents itself. */
export const DELIVERIES: CommandDescription = {
  name: 'deliveries',
  summary: 'what is posted to OUTGOING_URLS: list what fails, try again, give up, go on',
  example: ['rollcall deliveries list', 'rollcall deliveries replay'],
  subcommands: [
    {
      name: 'list',
      summary: 'endpoints, and deliveries that fail; exit 3 where something waits for a person',
      example: 'rollcall deliveries list --json',
    },
    {
      name: 'replay',
      summary: 'put parked ones back, in order',
      example: ['rollcall deliveries replay', 'rollcall deliveries replay 4711'],
      arguments: [['[ids...]', 'of deliveries; all parked ones where none is named']],
    },
    {
      name: 'drop',
      summary: 'give parked ones up for good; what waited behind them goes on',
      example: 'rollcall deliveries drop 4711',
      arguments: [['[ids...]', 'of deliveries; all parked ones where none is named']],
    },
    {
      name: 'resume',
      summary: 'go on with endpoints that answered 410, or were cut off',
      example: 'rollcall deliveries resume 3f1c0a9b2d4e',
      arguments: [['[ids...]', 'of endpoints; all that are stopped where none is named']],
    },
  ],
  needs: () => ({ descope: false, receives: false, serves: false }),
};
