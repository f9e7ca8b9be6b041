package server

import (
	"context"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/holdfast-dev/holdfast/flashsale"
)

type newSaleInput struct {
	Body struct {
		ID          string    `json:"id,omitempty" doc:"Chosen by the caller, so that a repeat creates nothing; made if it is left out." maxLength:"64" pattern:"^[A-Za-z0-9_-]+$"`
		Name        string    `json:"name" minLength:"1" maxLength:"200"`
		Stock       int64     `json:"stock" minimum:"1" maximum:"1000000" doc:"Units."`
		Price       int64     `json:"price" minimum:"1" maximum:"1000000000000" doc:"Of one unit, in minor units of the currency (cents)."`
		Currency    string    `json:"currency" pattern:"^[A-Z]{3}$" doc:"ISO 4217."`
		PerBuyer    int64     `json:"per_buyer,omitempty" minimum:"1" maximum:"1000000" default:"1" doc:"Units that one buyer may have."`
		OpensAt     time.Time `json:"opens_at,omitempty" doc:"When the sale opens; at once if left out."`
		HoldSeconds int64     `json:"hold_seconds,omitempty" minimum:"1" maximum:"3600" default:"120" doc:"How long a unit is held for who has not paid."`
	}
}

type saleOutput struct{ Body flashsale.Sale }

type SalePath struct {
	Sale string `path:"sale" maxLength:"64"`
}

type salesOutput struct {
	Body struct {
		Sales []flashsale.Sale `json:"sales"`
	}
}

// rawOutput is an answer that was stored as bytes.
type rawOutput struct {
	ContentType string `header:"Content-Type"`
	Location    string `header:"Location"`
	Replayed    string `header:"Idempotency-Replayed"`
	Body        []byte
}

func raw(answer []byte, replayed bool, location string) *rawOutput {
	out := &rawOutput{ContentType: "application/json", Body: answer, Location: location}
	if replayed {
		out.Replayed = "true"
	}
	return out
}

type holdInput struct {
	Keyed
	SalePath
	Body struct {
		Buyer string `json:"buyer" minLength:"1" maxLength:"128" doc:"Who the caller says the buyer is."`
	}
}

type releaseInput struct {
	SalePath
	Hold string `path:"hold" maxLength:"64"`
}

type orderPath struct {
	ID string `path:"id" maxLength:"64"`
}

type orderOutput struct{ Body flashsale.Order }

func (s *Server) saleRoutes() {
	huma.Register(s.api, s.operation("create-sale", http.MethodPost, "/v1/sales", "Create a sale", 201), s.createSale)
	huma.Register(s.api, s.operation("list-sales", http.MethodGet, "/v1/sales", "The newest sales", 200), s.listSales)
	huma.Register(s.api, s.operation("get-sale", http.MethodGet, "/v1/sales/{sale}", "A sale as it is now", 200), s.getSale)
	huma.Register(s.api, s.stored("create-hold", "/v1/sales/{sale}/holds", "Hold a unit for a buyer", 201, flashsale.Hold{}), s.createHold)
	huma.Register(s.api, s.operation("release-hold", http.MethodDelete, "/v1/sales/{sale}/holds/{hold}", "Give a held unit back", 204), s.releaseHold)
	huma.Register(s.api, s.operation("get-order", http.MethodGet, "/v1/orders/{id}", "An order", 200), s.getOrder)
	s.describeEvents()
}

func (s *Server) operation(id, method, path, summary string, status int) huma.Operation {
	return huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary, DefaultStatus: status,
		MaxBodyBytes: maxBody, BodyReadTimeout: 5 * time.Second,
		Errors: []int{400, 401, 404, 409, 413, 422, 503}, RejectUnknownQueryParameters: true,
	}
}

// stored is an operation whose answer is kept and repeated as bytes, of the JSON of sample.
func (s *Server) stored(id, path, summary string, status int, sample any) huma.Operation {
	op := s.operation(id, http.MethodPost, path, summary, status)
	schema := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeOf(sample), true, "")
	op.Responses = map[string]*huma.Response{
		map[int]string{201: "201", 202: "202"}[status]: {
			Description: http.StatusText(status),
			Content:     map[string]*huma.MediaType{"application/json": {Schema: schema}},
		},
	}
	return op
}

func (s *Server) createSale(ctx context.Context, in *newSaleInput) (*saleOutput, error) {
	b := in.Body
	sale, err := s.Sales.Create(ctx, flashsale.NewSale{
		ID: b.ID, Name: b.Name, Stock: b.Stock, Price: b.Price, Currency: b.Currency,
		PerBuyer: b.PerBuyer, OpensAt: b.OpensAt, HoldSeconds: b.HoldSeconds,
	})
	return &saleOutput{sale}, s.fail(ctx, err)
}

func (s *Server) listSales(ctx context.Context, _ *struct{}) (*salesOutput, error) {
	all, err := s.Sales.List(ctx, 100)
	out := &salesOutput{}
	out.Body.Sales = all
	return out, s.fail(ctx, err)
}

func (s *Server) getSale(ctx context.Context, in *SalePath) (*saleOutput, error) {
	sale, err := s.Sales.Sale(ctx, in.Sale)
	return &saleOutput{sale}, s.fail(ctx, err)
}

func (s *Server) createHold(ctx context.Context, in *holdInput) (*rawOutput, error) {
	work, cancel := detached(ctx)
	defer cancel()
	held, err := s.Sales.Hold(work, flashsale.HoldRequest{Key: in.scope, Sale: in.Sale, Buyer: in.Body.Buyer})
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	return raw(held.Answer, held.Replayed, ""), nil
}

func (s *Server) releaseHold(ctx context.Context, in *releaseInput) (*struct{}, error) {
	return nil, s.fail(ctx, s.Sales.Release(ctx, in.Sale, in.Hold))
}

func (s *Server) getOrder(ctx context.Context, in *orderPath) (*orderOutput, error) {
	order, err := s.Sales.GetOrder(ctx, in.ID)
	return &orderOutput{order}, s.fail(ctx, err)
}
