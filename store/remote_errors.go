package store

import (
	"errors"
	"fmt"
	"strings"

	"github.com/valkey-io/valkey-go"
)

// dialError is a connection that was never made: nothing can have been sent on it.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// refusals are the engine's answers that say it did not begin: the command was refused as a
// whole. The text explains what the engine's words leave out.
var refusals = map[string]string{
	"LOADING":     "the engine is reading its data from disk",
	"READONLY":    "this engine is a replica; write to the primary",
	"MASTERDOWN":  "this engine is a replica that has lost its primary",
	"CLUSTERDOWN": "the cluster cannot serve this slot",
	"TRYAGAIN":    "the slot is on the move",
	"MOVED":       "the slot belongs to another node, and following it has not ended",
	"ASK":         "the slot is moving to another node, and following it has not ended",
	"BUSY":        "somebody's script blocks the engine",
	"MISCONF":     "the engine cannot save to disk and accepts no writes",
	"NOREPLICAS":  "the engine has too few replicas to accept writes",
	"NOAUTH":      "the engine wants a password",
	"WRONGPASS":   "the engine refuses the user name or password",
	"NOPERM":      "the engine's user lacks a right; the package comment lists what is needed",
}

// outcome says what became of a call whose command ended with err.
func outcome(err error) error {
	if err == nil || valkey.IsValkeyNil(err) {
		return nil
	}
	var dial *dialError
	if errors.As(err, &dial) || errors.Is(err, valkey.ErrNoSlot) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	answer, ok := valkey.IsValkeyErr(err)
	if !ok {
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	return answered(answer.Error())
}

// answered sorts an error that the engine itself sent. The client has cut off a leading "ERR ",
// so what begins with no code of its own is one of those.
func answered(text string) error {
	code, _, _ := strings.Cut(text, " ")
	_, refused := refusals[code]
	switch {
	case code == "WRONGTYPE", scriptSays(text, "WRONGTYPE"), strings.Contains(text, "value is not an integer"):
		return fmt.Errorf("%w: %s", ErrWrongType, text)
	case code == "OOM", scriptSays(text, "OOM"):
		// Only a script that has written nothing yet is stopped by a full memory.
		return fmt.Errorf("%w: %s", ErrFull, text)
	case refused && !(code == "NOPERM" && strings.Contains(text, " script: ")):
		return fmt.Errorf("%w: %s", ErrUnavailable, explained(text))
	case strings.HasPrefix(text, tooMany):
		return fmt.Errorf("%w: %s", ErrUnavailable, text)
	}
	// A mistake in a script, or a right that it lacks midway. Scripts are not rolled back,
	// so how much was done is not known.
	return fmt.Errorf("%w: an error midway; what a script wrote before it stays: %s", ErrOutcomeUnknown, text)
}

// explained puts before the engine's words what they leave out.
func explained(text string) string {
	code, _, _ := strings.Cut(text, " ")
	if why, ok := refusals[code]; ok {
		return why + ": " + text
	}
	return text
}

const tooMany = "max number of clients reached"

// scriptSays finds code where engines before version 7 hide it: within words of their own.
func scriptSays(text, code string) bool {
	return strings.HasPrefix(text, "Error running script") && strings.Contains(text, ": "+code+" ")
}

// unanswered tells failures after which the link is in doubt from answers of an engine that
// is well.
func unanswered(err error) bool {
	if err == nil || valkey.IsValkeyNil(err) {
		return false
	}
	answer, ok := valkey.IsValkeyErr(err)
	return !ok || answer.IsLoading()
}

// harmless is outcome for what writes nothing, so that no answer leaves nothing unknown.
func harmless(err error) error {
	told := outcome(err)
	if errors.Is(told, ErrOutcomeUnknown) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return told
}

// atOpen sorts an error that Open met. Nothing was written. What trying again cannot mend is
// a matter of the URL or of the engine's settings.
func atOpen(err error) error {
	answer, ok := valkey.IsValkeyErr(err)
	if !ok {
		return harmless(err)
	}
	text := answer.Error()
	code, _, _ := strings.Cut(text, " ")
	_, refused := refusals[code]
	switch {
	case code == "NOAUTH", code == "WRONGPASS", code == "NOPERM":
		return fmt.Errorf("%w: %s", ErrConfig, explained(text))
	case refused, strings.HasPrefix(text, tooMany):
		return answered(text)
	}
	return fmt.Errorf("%w: %s", ErrConfig, text)
}

// refusedCommand: the engine does not have this command, or not for this user.
func refusedCommand(err error) bool {
	answer, ok := valkey.IsValkeyErr(err)
	if !ok {
		return false
	}
	text := answer.Error()
	return strings.HasPrefix(text, "NOPERM") || strings.HasPrefix(text, "unknown command")
}
