// A network for the ranks of a benchmark: a namespace with one card for each, joined by a bridge in a namespace of its own, so that a link
// may be slowed (tbf) and its bytes be counted. Namespaces have no names and end with the processes that hold them.
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";

export interface Network {
  /** What a program of a rank is started by. */
  readonly command: readonly string[];
  readonly address: string;
  /** Bytes that the card has sent: frames with TLS, TCP and IP around them. */
  bytes(): number;
}

export interface Networks {
  readonly ranks: readonly Network[];
  close(): void;
}

const card = "eth0";

/** Without root or the programs `ip` and `unshare`: the reason why there are none. */
export async function openNetworks(ranks: number, megabytesPerSecond: number | undefined): Promise<Networks | { readonly reason: string }> {
  const holders: ChildProcess[] = [];
  const hold = async (): Promise<readonly string[]> => {
    // Ends when its input does, and so with this process.
    const holder = spawn("unshare", ["--net", "sh", "-c", "echo ready; cat"], { stdio: ["pipe", "pipe", "pipe"] });
    holders.push(holder);
    const ended = once(holder, "close").then(() => {
      throw new Error(`unshare --net ended: ${holder.stderr?.read() ?? ""}`);
    });
    ended.catch(() => {}); // it is told to, at the end
    await Promise.race([
      once(holder.stdout as NonNullable<ChildProcess["stdout"]>, "data"),
      ended,
      once(holder, "error").then(([e]) => Promise.reject(e)),
    ]);
    return ["nsenter", `--net=/proc/${holder.pid}/ns/net`];
  };
  const close = (): void => {
    for (const holder of holders) holder.stdin?.end();
  };
  try {
    const hub = await hold();
    run(hub, "ip link add name bridge type bridge");
    run(hub, "ip link set bridge up");
    const made: Network[] = [];
    for (let rank = 0; rank < ranks; rank++) {
      const command = await hold();
      const address = `10.0.0.${rank + 1}`;
      run(hub, `ip link add name rank${rank} type veth peer name ${card} netns ${holders.at(-1)?.pid}`);
      run(hub, `ip link set rank${rank} master bridge up`);
      run(command, `ip address add ${address}/24 dev ${card}`);
      for (const each of ["lo", card]) run(command, `ip link set ${each} up`);
      if (megabytesPerSecond !== undefined) {
        const slow = `root tbf rate ${Math.round(8000 * megabytesPerSecond)}kbit burst 256kb latency 100ms`;
        run(command, `tc qdisc add dev ${card} ${slow}`);
        run(hub, `tc qdisc add dev rank${rank} ${slow}`);
      }
      made.push({ command, address, bytes: () => sentBytes(command) });
    }
    return { ranks: made, close };
  } catch (caught) {
    close();
    return { reason: `${caught instanceof Error ? caught.message.trim() : caught}; run it as root, with ip, tc and unshare` };
  }
}

function run(command: readonly string[], line: string): string {
  const [program, ...args] = [...command, ...line.split(" ")] as [string, ...string[]];
  return execFileSync(program, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

function sentBytes(command: readonly string[]): number {
  const [link] = JSON.parse(run(command, `ip -s -j link show ${card}`)) as { stats64?: { tx?: { bytes?: number } } }[];
  const bytes = link?.stats64?.tx?.bytes;
  if (bytes === undefined) throw new Error(`ip tells no bytes of ${card}`);
  return bytes;
}
