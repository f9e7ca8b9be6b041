//go:build !mutants

package mutant

const (
	// StoreCheckOff lets the permits in the store exceed the stock.
	StoreCheckOff = false
	// CondOff drops the condition from the UPDATE that reserves a unit.
	CondOff = false
	// CheckOff drops the CHECK that a sale is not oversold.
	CheckOff = false
	// IdempotencyOff forgets stored answers, so a repeat is a new request.
	IdempotencyOff = false
	// SyncOff answers before the embedded engine's write is on disk.
	SyncOff = false
	// AskOff takes a call that had no answer for refused, and does not ask.
	AskOff = false
	// LimitOff lets a buyer have more than the limit.
	LimitOff = false
	// ReturnOff forgets to put expired holds back on sale.
	ReturnOff = false
	// HoldLost answers one hold in sixteen that it has not written.
	HoldLost = false
	// DrainOff cuts off what is being answered when a server is told to end.
	DrainOff = false
	// CutOff makes a backup's two halves of two moments.
	CutOff = false
	// LogSyncOff lets the replicated log answer before its entries are on disk.
	LogSyncOff = false
	// LateVerify takes any answer to any heartbeat for a proof that a node still leads.
	LateVerify = false
	// GateOff lets replies pass that rest on what is not committed.
	GateOff = false
	// NoVerify lets replies pass without a proof that the node still leads.
	NoVerify = false
	// Early lets replies pass that only the leader itself has on its way to the log.
	Early = false
	// NoFullSync lets an engine go on that holds what was never committed.
	NoFullSync = false
	// StayWithFirst has a node's sentinel name for ever whom it named first.
	StayWithFirst = false
	// AnyPassword lets a node join whatever its clients' password is.
	AnyPassword = false
	// RefusedTakes lets a limit that refuses count what it refused.
	RefusedTakes = false
	// TakesPart lets limits count a call that another limit refused.
	TakesPart = false
	// LeaseKept keeps the slot of a caller that is gone.
	LeaseKept = false
	// FullShare gives every process the whole of a limit while the store is gone.
	FullShare = false
	// LeaseEndless has a process use up the units that it has leased whenever it comes to it.
	LeaseEndless = false
	// BackTwice counts units that a process gives back twice.
	BackTwice = false
	// LeaseUntold keeps units that were leased by a request whose answer was lost.
	LeaseUntold = false
	// Uncounted has limits admit one call in four or so that they do not count.
	Uncounted = false
	// HalfWait tells who is refused half of the time to wait.
	HalfWait = false
	// ReservedAgain takes a reservation again each time that it is made.
	ReservedAgain = false
	// CircuitOff has every call wait for a store that does not answer.
	CircuitOff = false
	// HalfReload takes rules away when a rule file has an error.
	HalfReload = false
	// ReplayClock decides a recorded log as if all of it happened at once.
	ReplayClock = false
	// GuardOff lets resources take writes of older leases.
	GuardOff = false
	// MarkLost has tokens follow the engine's clock alone, which can go back.
	MarkLost = false
	// LineOff serves who waits for a lock in no order.
	LineOff = false
	// LossUntold tells nobody that a lease has ended.
	LossUntold = false
	// ReportsLost counts nothing of a call of Envoy that was refused, not even what has happened.
	ReportsLost = false
	// CallersTime gives a call's own deadline to the limits, which then cannot tell a store that is gone.
	CallersTime = false
	// GuardIdle has the HTTP guard take every request for that of the newest lease.
	GuardIdle = false
	// RunsOn lets a command run on whose lock is lost.
	RunsOn = false
	// RepeatNew takes a repeat of a lock's request for another one.
	RepeatNew = false
	// StaysInLine leaves those in line for a lock who have gone away.
	StaysInLine = false
	// PlaceLost forgets the place in line that was to be kept.
	PlaceLost = false
	// StoreAwaited waits without end for a store that is gone.
	StoreAwaited = false
	// WaitEndless has a wait for a lock go on beyond its deadline.
	WaitEndless = false
	// SharesOff gives a share of a lock to everybody who wants no more than that.
	SharesOff = false
)
