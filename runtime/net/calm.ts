// The silence of a pod that is watched: the operator allows it with its pings, for as long as there is no news and the connection itself
// shows that the pod lives. Who does not allow it hears a status every second, as operators before did. Pure.

/** No pod is silent for longer, whatever it is allowed: a watcher that gives none of its time to this stream finds out by then. */
export const calmMsMax = 60_000;
/** The part of that time after which a ping is answered: an answer tells the clock too, which a status that is merely due does not. */
const answerPart = 0.5;

export class Calm {
  #allowedMs = 0;
  #sentAt = Number.NEGATIVE_INFINITY;
  #sentNews = "";

  /** Takes what a ping allows; 0 = nothing. */
  allow(ms: number): void {
    this.#allowedMs = Math.min(ms, calmMsMax);
  }

  /** Notes that a status with this news went out. */
  sent(news: string, nowMs: number): void {
    this.#sentAt = nowMs;
    this.#sentNews = news;
  }

  /** True when a status with this news may be left out, or the answer to a ping. */
  spares(news: string, nowMs: number, isAnswer = false): boolean {
    return nowMs - this.#sentAt < this.#allowedMs * (isAnswer ? answerPart : 1) && news === this.#sentNews;
  }
}
