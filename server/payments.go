package server

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/holdfast-dev/holdfast/payment"
)

type payInput struct {
	Keyed
	Body struct {
		Hold     string `json:"hold" minLength:"1" maxLength:"64" doc:"What is paid for."`
		Buyer    string `json:"buyer" minLength:"1" maxLength:"128" doc:"Whose hold it is."`
		Amount   int64  `json:"amount" minimum:"1" maximum:"1000000000000" doc:"The price, in minor units."`
		Currency string `json:"currency" pattern:"^[A-Z]{3}$" doc:"ISO 4217."`
		Source   string `json:"source,omitempty" maxLength:"256" doc:"What the provider needs to know of the buyer's means: a token, never a card's number."`
	}
}

type paymentPath struct {
	ID string `path:"id" maxLength:"64"`
}

type paymentOutput struct{ Body payment.Payment }

func (s *Server) paymentRoutes() {
	huma.Register(s.api, s.stored("create-payment", "/v1/payments", "Pay for a hold", 202, payment.Payment{}), s.createPayment)
	huma.Register(s.api, s.operation("get-payment", http.MethodGet, "/v1/payments/{id}", "A payment as it is now", 200), s.getPayment)
}

func (s *Server) createPayment(ctx context.Context, in *payInput) (*rawOutput, error) {
	work, cancel := detached(ctx)
	defer cancel()
	b := in.Body
	a, err := s.Payments.Accept(work, payment.Request{
		Key: in.scope, Hold: b.Hold, Buyer: b.Buyer, Amount: b.Amount, Currency: b.Currency, Source: b.Source,
	})
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	return raw(a.Answer, a.Replayed, "/v1/payments/"+a.Payment.ID), nil
}

func (s *Server) getPayment(ctx context.Context, in *paymentPath) (*paymentOutput, error) {
	p, err := s.Payments.Get(ctx, in.ID)
	return &paymentOutput{p}, s.fail(ctx, err)
}
