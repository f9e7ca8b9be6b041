package flashsale

import (
	"context"
	"testing"

	"github.com/google/uuid"
)

// Engines do what nobody waits for any more: a gate that this process began to build and gave up, perhaps after others had
// waited for it, is built by its next attempt, and not only once its time is over.
func TestAGateThatWasGivenUp(t *testing.T) {
	pair(t, func(r *rig) {
		s, other := r.sales(false, Options{}), r.sales(false, Options{})
		sale := r.sale(s, NewSale{Stock: 1})
		terms, err := s.terms(r.Context(), sale.ID)
		if err != nil {
			r.Fatal(err)
		}
		theirs, err := other.terms(r.Context(), sale.ID)
		if err != nil {
			r.Fatal(err)
		}
		for range 3 { // whatever step it is that gets no answer
			r.flush(sale.ID)
			ctx, cancel := context.WithCancel(r.Context())
			cancel()
			if built, err := s.buildGate(ctx, terms); built || err == nil {
				r.Fatalf("built %v, %v", built, err)
			}
			gen := terms.givenUp
			if _, err := uuid.Parse(gen); err != nil {
				r.Fatalf("%q was given up: %v", gen, err)
			}
			in := buildIn{
				Permits: permitsKey(sale.ID), Spent: spentKey(sale.ID), Gate: gateKey(sale.ID),
				KeyLife: s.opts.KeyLife.Microseconds(), Step: "begin", Gen: gen, Cap: sale.Stock,
			}
			if out, err := build.Do(r.Context(), s.store, in); err != nil || !out.Done { // late
				r.Fatal(out, err)
			}
			if built, err := other.buildGate(r.Context(), theirs); built || err != nil {
				r.Errorf("others do not know that it was given up: built %v, %v", built, err)
			}
			if built, err := s.buildGate(r.Context(), terms); !built || err != nil {
				r.Errorf("built %v, %v", built, err)
			}
			in.Step = "open" // later still
			if out, err := build.Do(r.Context(), s.store, in); err != nil || out.Done {
				r.Errorf("%+v, %v", out, err)
			}
		}
	})
}
