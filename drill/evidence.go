package drill

import (
	"encoding/json"
	"time"
)

// evidence is all that the judgement looks at: plain values, so that each check can be tried
// with evidence that was tampered with. Times are µs since 1970, by the clock that wrote them.
type evidence struct {
	Stock    int64
	PerBuyer int64
	HoldTime time.Duration
	Price    int64
	Currency string
	SaleID   string
	Caller   string // the API key's name, part of each key's scope

	// SQL
	Sale      saleRow
	Events    []stockEvent
	Holds     []holdRow
	Buyers    []buyerRow
	Orders    []orderRow
	Payments  []paymentRow
	Answers   []storedAnswer
	Accounts  []accountRow
	Entries   []entryRow
	Transfers []transferRow

	// the store
	StoreRead bool // false for mem:, which nobody can read from outside
	Permits   map[string]int64
	StoreNow  int64   // when it was read
	Marks     *marked // nil: the store is not the drill's own

	// the provider
	Provider []providerLine
	Dealt    map[string]int // faults
	Rates    map[string]int // of them, in 100

	// what the clients know
	Keys      []*keyed
	Released  map[string]bool // holds that a client released; true: it was answered 204
	Finals    []paymentTold   // payments in their final states
	Orderings []orderTold     // orders as they were shown
	Counts    map[string]int  // what happened, by name
	Demand    int             // units that buyers still wanted at the end
	LastAsked int64           // when a client last asked for a new hold
	Streams   []stream        // what watchers of the sale saw

	// the servers and the engines
	Outages    []outage
	FaultsWant map[string]int // by kind
	Stopping   int64          // when they were asked to end, after the storm
	Exits      []string       // what was not clean about a server's end
}

type saleRow struct{ Stock, Held, Sold, Version int64 }

// stockEvent is the payload of an event.
type stockEvent struct {
	Stock   int64  `json:"stock"`
	Held    int64  `json:"held"`
	Sold    int64  `json:"sold"`
	Version int64  `json:"version"`
	What    string `json:"what"`
	Units   int64  `json:"units"`
}

type holdRow struct {
	ID, Sale, Buyer, Permit, State, Payment string
	CreatedAt, ExpiresAt, ChangedAt         int64
}

// end is when the hold stopped taking a unit; never while it is held or sold.
func (h holdRow) end() (int64, bool) {
	return h.ChangedAt, h.State != "held" && h.State != "confirmed"
}

type buyerRow struct {
	Buyer      string
	Taken, Cap int64
}

type orderRow struct {
	ID, Hold, Buyer, Payment, Currency, State string
	Amount                                    int64
}

type paymentRow struct {
	ID, Hold, Buyer, Currency, State, Order, Reason string
	Amount                                          int64
}

// storedAnswer is what SQL keeps for a key: the hash of its scope in hex, and the answer.
type storedAnswer struct{ Scope, Answer string }

type accountRow struct {
	ID, Currency                  string
	PostedDebits, PostedCredits   int64
	PendingDebits, PendingCredits int64
}

type entryRow struct {
	Transfer, Step, Account string
	Amount                  int64 // debits positive
}

type transferRow struct{ ID, State string }

// providerLine is a line of the provider's log: one effect.
type providerLine struct {
	Op       string `json:"op"`
	Ref      string `json:"ref"`
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
	Outcome  string `json:"outcome"`
}

// holdTold is the body of a hold as a client got it.
type holdTold struct {
	ID        string    `json:"id"`
	Sale      string    `json:"sale"`
	Buyer     string    `json:"buyer"`
	State     string    `json:"state"`
	Price     int64     `json:"price"`
	Currency  string    `json:"currency"`
	ExpiresAt time.Time `json:"expires_at"`
	CreatedAt time.Time `json:"created_at"`
}

type paymentTold struct {
	ID       string `json:"id"`
	Hold     string `json:"hold"`
	Buyer    string `json:"buyer"`
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
	State    string `json:"state"`
	Order    string `json:"order"`
}

// final says whether a payment's state will not change any more.
func final(state string) bool {
	return state == "captured" || state == "voided" || state == "refunded" || state == "failed"
}

type orderTold struct {
	ID       string `json:"id"`
	Hold     string `json:"hold"`
	Buyer    string `json:"buyer"`
	Payment  string `json:"payment"`
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
	State    string `json:"state"`
}

// outage is one fault that happened. From Down to Up what was harmed did not answer.
type outage struct {
	Fault    string
	Server   int // of kill-server
	Down, Up int64
	InFlight int     // requests that were on their way
	Hit      bool    // there was something to harm: it ran, and it was not empty
	Success  []int64 // when each server first gave an answer after it; 0: not in time
}

func (o outage) name() string { return fault{o.Fault, o.Server}.String() }

// parse reads a body that a client got; what cannot be read stays zero, and no check passes it.
func parse[T any](body string) (v T) {
	if json.Unmarshal([]byte(body), &v) != nil {
		var zero T
		return zero
	}
	return v
}
