package drill

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/google/uuid"
)

// buyer wants units, and behaves as its cards say.
type buyer struct {
	run   *run
	name  string
	wants int
	has   int // units paid for
	gone  bool
}

func (b *buyer) shop(ctx context.Context) {
	for b.wants > 0 && !b.gone && ctx.Err() == nil {
		b.one(ctx)
	}
}

// demand is what the buyer may still have, and wanted.
func (b *buyer) demand() int {
	if b.gone {
		return 0
	}
	return max(0, min(b.wants, b.run.perBuyer-b.has))
}

// one tries to get one unit.
func (b *buyer) one(ctx context.Context) {
	beyond := b.has >= b.run.perBuyer
	k := b.holdKey()
	r := b.send(ctx, k)
	if beyond {
		b.run.record.count(didBeyond)
	}
	for r.err == nil && r.problem == "sold-out" {
		if !wait(ctx, b.run.pause/2+rand.N(b.run.pause)) {
			return
		}
		r = b.run.client.decided(ctx, k)
	}
	switch {
	case r.err != nil:
	case r.status == http.StatusCreated:
		b.run.record.held()
		b.hold(ctx, k, parse[holdTold](string(r.body)))
	case r.problem == "limit":
		b.run.record.count(didLimit)
		if beyond {
			b.wants = 0
		} else {
			wait(ctx, b.run.pause) // a hold of its own that it has given up is still there
		}
	default:
		b.wants = 0 // an answer that nobody expects; the judgement has it
	}
}

func (b *buyer) holdKey() *keyed {
	return b.newKey(kindHold, "/v1/sales/"+b.run.saleID+"/holds", "", map[string]any{"buyer": b.name})
}

func (b *buyer) newKey(kind, path, hold string, body map[string]any) *keyed {
	data, err := json.Marshal(body)
	if err != nil {
		panic(err) // strings and numbers
	}
	k := &keyed{Kind: kind, Path: path, Key: uuid.NewString(), Buyer: b.name, Hold: hold, Body: data}
	b.run.record.key(k)
	return k
}

// send asks for a hold in the way that the next card says.
func (b *buyer) send(ctx context.Context, k *keyed) reply {
	switch b.run.sendings.deal() {
	case sendTwice:
		return b.run.client.twice(ctx, k)
	case sendCut:
		return b.run.client.cutFirst(ctx, k)
	}
	return b.run.client.decided(ctx, k)
}

// hold does with a hold what the next card says.
func (b *buyer) hold(ctx context.Context, k *keyed, h holdTold) {
	b.run.busy.Add(1)
	defer b.run.busy.Add(-1)
	rec := b.run.record
	switch card := b.run.behaviors.deal(); card {
	case vanishNow:
		if b.run.mayVanish() {
			rec.count(didVanish)
			b.gone = true
			return
		}
		b.pay(ctx, h, payPlainly)
	case giveBack:
		b.release(ctx, h)
	case repeatFirst:
		if wait(ctx, 200*time.Millisecond+rand.N(300*time.Millisecond)) {
			b.run.client.decided(ctx, k)
		}
		b.pay(ctx, h, payPlainly)
	case reuseKey:
		b.reuse(ctx, k)
		b.pay(ctx, h, payPlainly)
	default:
		b.pay(ctx, h, card)
	}
}

// release gives a hold back, and once more, which has to be harmless.
func (b *buyer) release(ctx context.Context, h holdTold) {
	rec, path := b.run.record, "/v1/sales/"+h.Sale+"/holds/"+h.ID
	rec.release(h.ID, false)
	for range 2 {
		if r := b.run.client.simple(ctx, http.MethodDelete, path); r.err == nil && r.status == http.StatusNoContent {
			rec.release(h.ID, true)
		}
	}
	rec.count(didRelease)
	b.wants--
}

// otherBody marks an answer to another request under the same key.
const otherBody = "other body: "

// reuse sends what another buyer wants under the hold's key. It must be refused; any other
// answer is noted as one to the key, and fails the judgement.
func (b *buyer) reuse(ctx context.Context, k *keyed) {
	body, err := json.Marshal(map[string]any{"buyer": b.name + "-else"})
	if err != nil {
		panic(err) // a string
	}
	for {
		r := b.run.client.once(ctx, http.MethodPost, k.Path, k.Key, body, false)
		switch {
		case r.undecided():
		case r.problem == "sold-out" && time.Since(k.first()) < markAge: // too young, as for every repeat
		case r.problem == "key-reused":
			b.run.record.answer(nil, r)
			b.run.record.count(didReuse)
			return
		default:
			r.problem = otherBody + orPlain(r.problem)
			k.note(r)
			return
		}
		if !wait(ctx, 50*time.Millisecond) {
			return
		}
	}
}

// payTries is how often a buyer tries to pay for one hold, when the provider refuses.
const payTries = 3

// pay pays for a hold until it is sold or gone.
func (b *buyer) pay(ctx context.Context, h holdTold, card behavior) {
	for range payTries {
		k := b.paymentKey(h)
		r := b.sendPayment(ctx, k, h, card)
		switch {
		case r.err != nil:
			return
		case r.status != http.StatusAccepted:
			return // the hold is gone; whoever still wants a unit asks again
		}
		p, ok := b.follow(ctx, parse[paymentTold](string(r.body)).ID)
		if !ok {
			return
		}
		if p.State == "captured" {
			b.bought(ctx, p)
			return
		}
		card = payPlainly
	}
}

func (b *buyer) paymentKey(h holdTold) *keyed {
	return b.newKey(kindPayment, "/v1/payments", h.ID, map[string]any{
		"hold": h.ID, "buyer": b.name, "amount": h.Price, "currency": h.Currency, "source": "tok_drill",
	})
}

func (b *buyer) sendPayment(ctx context.Context, k *keyed, h holdTold, card behavior) reply {
	c := b.run.client
	switch card {
	case payTwice:
		return c.twice(ctx, k)
	case payCut:
		return c.cutFirst(ctx, k)
	case payTwoKeys:
		b.run.record.count(didTwoKeys)
		other := make(chan reply, 1)
		second := b.paymentKey(h)
		go func() { other <- c.decided(ctx, second) }()
		mine, theirs := c.decided(ctx, k), <-other
		if theirs.success() {
			return theirs
		}
		return mine
	}
	return c.decided(ctx, k)
}

// follow watches a payment to its end.
func (b *buyer) follow(ctx context.Context, id string) (p paymentTold, ok bool) {
	b.run.record.accepted(id)
	for pause := 100 * time.Millisecond; ; pause = min(pause*3/2, max(time.Second, b.run.pause)) {
		if !wait(ctx, pause/2+rand.N(pause)) {
			return p, false
		}
		p, ok = get[paymentTold](ctx, b.run.client, "/v1/payments/"+id)
		switch {
		case ok && final(p.State):
			b.run.record.ended(p)
			return p, true
		case ctx.Err() != nil:
			return p, false
		}
	}
}

// bought looks at the order.
func (b *buyer) bought(ctx context.Context, p paymentTold) {
	b.has++
	b.wants--
	if o, ok := get[orderTold](ctx, b.run.client, "/v1/orders/"+p.Order); ok {
		b.run.record.shown(o)
	}
}

// scout asks beyond its limit while there are units, and pays for what it has.
func (b *buyer) scout(ctx context.Context) {
	b.run.busy.Add(1)
	defer b.run.busy.Add(-1)
	mine := b.askBeyond(ctx)
	b.run.scouted.Done()
	for _, h := range mine {
		b.pay(ctx, h, payPlainly)
	}
	b.wants = 0
}

// askBeyond takes as many units as a buyer may have, and asks for one more.
func (b *buyer) askBeyond(ctx context.Context) (mine []holdTold) {
	for range b.run.perBuyer {
		r := b.run.client.decided(ctx, b.holdKey())
		if r.err != nil || r.status != http.StatusCreated {
			return mine
		}
		b.run.record.held()
		mine = append(mine, parse[holdTold](string(r.body)))
	}
	b.run.record.count(didBeyond)
	if r := b.run.client.decided(ctx, b.holdKey()); r.problem == "limit" {
		b.run.record.count(didLimit)
	}
	return mine
}
