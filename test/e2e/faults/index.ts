// The registry of faults and changes: a new one is a file or a value beside its like, and a line here.
import { bodiesSent, patternsAsked, silentConnections } from "./attacks.ts";
import { expertsMoved, imageRolled, operatorUpgraded, scaledDown, scaledUp, templateRolled } from "./changes.ts";
import { gatewayClock, leaderAhead, operatorClock, rankClock } from "./clocks.ts";
import {
  answersHeld,
  apiServerKilled,
  apiServerStopped,
  diskFull,
  etcdKilled,
  natsKilled,
  operatorKilled,
  operatorStopped,
} from "./control.ts";
import { gatewayKilled } from "./gateways.ts";
import { linkCut, nodeOff, packetsLost } from "./nodes.ts";
import { podDeleted, podEvicted, rankKilled, rankLeftOut, rankStopped, twoRanksKilled } from "./ranks.ts";

export const faults = [
  rankKilled,
  twoRanksKilled,
  podDeleted,
  podEvicted,
  rankStopped,
  rankLeftOut,
  gatewayKilled,
  nodeOff,
  linkCut,
  packetsLost,
  operatorKilled,
  operatorStopped,
  answersHeld,
  natsKilled,
  apiServerKilled,
  apiServerStopped,
  etcdKilled,
  diskFull,
  rankClock,
  operatorClock,
  gatewayClock,
  leaderAhead,
  patternsAsked,
  bodiesSent,
  silentConnections,
  templateRolled,
  imageRolled,
  scaledDown,
  scaledUp,
  operatorUpgraded,
  expertsMoved,
];
