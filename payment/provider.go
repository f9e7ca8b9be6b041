package payment

import "context"

// Provider moves the money. Every call is idempotent by ref, which is the payment's id.
//
// An error means that it is not known what happened: the worker asks with Lookup, and as long
// as that fails too, it tries again. A Result is what the provider has on record.
type Provider interface {
	// Authorise reserves amount. Status: Authorised, Refused, or what became of ref before.
	Authorise(ctx context.Context, ref string, amount int64, currency, source string) (Result, error)
	// Capture takes what was authorised. Refused is final: it will never be captured.
	Capture(ctx context.Context, ref string) (Result, error)
	// Void releases what was authorised. Voiding a ref that was never seen is remembered: a
	// later Authorise under it, however late it arrives, gives Voided and reserves nothing.
	Void(ctx context.Context, ref string) (Result, error)
	// Refund gives all back that was captured.
	Refund(ctx context.Context, ref string) (Result, error)
	// Lookup says what is on record, Unknown where nothing is.
	Lookup(ctx context.Context, ref string) (Result, error)
}

// Result is what a provider has on record for a reference.
type Result struct {
	Status Status
	Reason string // why it was refused, in the provider's words
}

// Status of a reference at the provider.
type Status string

// The statuses.
const (
	StatusUnknown    Status = "unknown"
	StatusAuthorised Status = "authorised"
	StatusCaptured   Status = "captured"
	StatusVoided     Status = "voided"
	StatusRefunded   Status = "refunded"
	StatusRefused    Status = "refused"
)
