// The registry of faults and changes: a new one is a file or a value beside its like, and a line here.
import { expertsMoved, imageRolled, operatorUpgraded, scaledDown, scaledUp, templateRolled } from "./changes.ts";
import { gatewayClock, operatorClock, rankClock } from "./clocks.ts";
import { apiServerKilled, apiServerStopped, diskFull, etcdKilled, natsKilled, operatorKilled, operatorStopped } from "./control.ts";
import { linkCut, nodeOff, packetsLost } from "./nodes.ts";
import { podDeleted, podEvicted, rankKilled, rankStopped, twoRanksKilled } from "./ranks.ts";

export const faults = [
  rankKilled,
  twoRanksKilled,
  podDeleted,
  podEvicted,
  rankStopped,
  nodeOff,
  linkCut,
  packetsLost,
  operatorKilled,
  operatorStopped,
  natsKilled,
  apiServerKilled,
  apiServerStopped,
  etcdKilled,
  diskFull,
  rankClock,
  operatorClock,
  gatewayClock,
  templateRolled,
  imageRolled,
  scaledDown,
  scaledUp,
  operatorUpgraded,
  expertsMoved,
];
