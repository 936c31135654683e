// The transport within one process. One failed rank ends the world for all.
import { AppError } from "../../../crds/common.ts";
import { Inbox, Traffic } from "./inbox.ts";
import { frameMsMax, type Hub, type Transport } from "./transport.ts";

const waitingBytesMax = 2 ** 32;

export class Loopback implements Hub {
  readonly #inboxes: readonly Inbox[];
  readonly #sent: readonly Traffic[];
  #ended: { readonly error: unknown } | undefined;

  /** `frameMs`: the time limit of a receive. */
  constructor(ranks: number, frameMs = frameMsMax) {
    this.#inboxes = Array.from({ length: ranks }, () => new Inbox(ranks, () => frameMs));
    this.#sent = this.#inboxes.map(() => new Traffic());
  }

  takeTraffic(rank: number, what: string): { readonly sent: number; readonly received: number } {
    return { sent: this.#sent[rank]?.take(what) ?? 0, received: this.#inboxes[rank]?.received.take(what) ?? 0 };
  }

  end(error: unknown): void {
    this.#ended ??= { error };
    for (const inbox of this.#inboxes) inbox.end(this.#ended.error);
  }

  transport(rank: number): Transport {
    const own = this.#inboxes[rank] as Inbox;
    const ranks = this.#inboxes.length;
    return {
      rank,
      ranks,
      send: async (to, stamp, name, payload) => {
        if (this.#ended !== undefined) throw this.#ended.error;
        const inbox = this.#inboxes[to] as Inbox;
        this.#sent[rank]?.count(name.what, payload.byteLength);
        inbox.put(rank, name, { stamp, payload: payload.slice() });
        let held = 0;
        for (let from = 0; from < ranks; from++) held += inbox.heldBytes(from);
        if (held > waitingBytesMax) throw backlog(to, held);
      },
      receive: (from, stamp, wanted) => own.take(from, stamp, wanted),
    };
  }
}

function backlog(to: number, held: number): AppError {
  return new AppError(
    `rank ${to} has not taken ${held} bytes of frames, ${waitingBytesMax} are allowed: it falls behind, or copies come too far ahead; ` +
      'take rematerialize "AfterForward" or fewer memorySlots, and fewer sequences where it is rows',
    { code: "FrameBacklog", operation: "sending a frame" },
  );
}
