// A rank of training in a process of its own: gives back to rank 0 what it is sent, until it is killed. Its parent says where rank 0 is.
import { WireTransport } from "../../../runtime/net/collectives/wire.ts";
import { fixedTls } from "../../../runtime/net/tls.ts";

export interface WireRankOrder {
  readonly address: string;
  /** PEM. */
  readonly tls: { readonly cert: string; readonly key: string; readonly ca: string };
  readonly numbers: number;
}

process.once("message", async ({ address, tls, numbers }: WireRankOrder) => {
  const [cert, key, ca] = [tls.cert, tls.key, tls.ca].map((pem) => Buffer.from(pem)) as [Buffer, Buffer, Buffer];
  const rank = new WireTransport({
    ...{ job: "j", world: 1, rank: 1, ranks: 2, namespace: "default", name: "train", tls: fixedTls({ cert, key, ca }) },
    address: () => address,
    onProblem: (message) => process.stderr.write(`${message}\n`),
  });
  process.send?.(await rank.listen("127.0.0.1", 0));
  for (let step = 1; ; step++) {
    const stamp = { world: 1, step, plan: "a" };
    const payload = await rank.receive(0, stamp, { what: "there", layer: 0, chunk: 0, piece: 0, length: numbers });
    await rank.send(0, stamp, { what: "back", layer: 0, chunk: 0, piece: 0 }, payload);
  }
});
