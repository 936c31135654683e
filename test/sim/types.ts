// Shared shapes of the simulation.
export interface RecordedEvent {
  readonly at: number;
  readonly type: string;
  readonly reason: string;
  readonly message: string;
}
