// Engines as ranks 0, 1 and so on of one world, each with all experts: what rank 0 sends and gets are heads of its prompts. The connections
// are the real ones, over links that a test can break.
import type { Engine, EngineConnections, EnginePeer, PeerCounts, PeerView } from "../../../runtime/engine/engine.ts";
import { serverNames } from "../../../runtime/net/tls.ts";
import { createTestCa } from "../network/certs.ts";
import { Link } from "../network/link.ts";
import { until } from "../wait.ts";

const [namespace, name] = ["default", "mix"];
const ca = createTestCa();

const peerOf = (rank: number, address?: string): EnginePeer => {
  return { rank, podUid: `u${rank}`, podName: `rank-${rank}`, serverName: serverNames.rank(rank, namespace, name), usable: true, address };
};

function viewOf(rank: number, layers: number, peers: readonly EnginePeer[]): PeerView {
  const all = (value: number): number[] => new Array<number>(layers).fill(value);
  const self = { deploymentUid: "d", rank, podUid: `u${rank}`, bootId: "b" };
  return { self, tls: ca.issue(`rank-${rank}`, namespace, name).current(), peers, serves: all(1), epochs: all(1) };
}

export interface LinkedEngines {
  /** From rank 0 to the others. */
  readonly links: readonly Link[];
  /** That rank 0 sent and got. */
  readonly bytes: () => number;
  close(): void;
}

export async function linkEngines(engines: readonly Engine[]): Promise<LinkedEngines> {
  const open = async (rank: number, peers: readonly EnginePeer[], onCounts: (counts: PeerCounts) => void): Promise<number> => {
    const engine = engines[rank] as Engine;
    const view = viewOf(rank, engine.describe().layers, peers);
    return (engine.connections as EngineConnections).open({ namespace, name, host: "127.0.0.1", port: 0, view }, onCounts);
  };
  const links: Link[] = [];
  for (let rank = 1; rank < engines.length; rank++) {
    const port = await open(rank, [peerOf(0)], () => {});
    links.push(await Link.open(() => port));
  }
  let [connected, bytes] = [0, 0];
  const peers = links.map(({ address }, i) => peerOf(i + 1, address));
  await open(0, peers, ({ connections, sent }) => {
    connected = connections;
    bytes += sent.bytes + sent.received;
  });
  await until("the connections are ready", () => connected === links.length);
  const close = (): void => {
    for (const link of links) link.close();
  };
  return { links, bytes: () => bytes, close };
}
