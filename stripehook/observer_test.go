package stripehook_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/stripehook"
)

func TestObserver_isToldTheResultOfEachDelivery(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		var got []stripehook.DeliveryInfo
		hook := w.newHook(stripehook.Config{Observer: &stripehook.Observer{
			Delivered: func(_ context.Context, info stripehook.DeliveryInfo) {
				got = append(got, info)
				panic("the observer's")
			},
		}})
		invoice := func(id string) string {
			return `{"id":"` + id + `","object":"event","type":"invoice.payment_failed","created":1,` +
				`"livemode":false,"data":{"object":{"object":"invoice","id":"in_1","subscription":"sub_1"}}}`
		}
		ours := `{"id":"evt_1","object":"event","type":"customer.subscription.created","created":1,` +
			`"livemode":false,"data":{"object":{"object":"subscription","id":"sub_9","status":"active",` +
			`"customer":"cus_1","items":{"data":[]},"metadata":{"tenant_id":"` + w.tenant.ID + `"}}}}`
		other := `{"id":"evt_3","object":"event","type":"charge.failed","created":1,"livemode":false,` +
			`"data":{"object":{}}}`
		for i, c := range []struct {
			body, header, result, id string
			status                   int
		}{
			{ours, sign(ours, secret, noon), hostdb.WebhookProcessed, "evt_1", 200},
			{ours, sign(ours, secret, noon), stripehook.ResultDuplicate, "evt_1", 200},
			{invoice("evt_2"), sign(invoice("evt_2"), secret, noon), hostdb.WebhookParked, "evt_2", 200},
			{other, sign(other, secret, noon), stripehook.ResultIgnored, "evt_3", 200},
			{ours, "t=1,v1=00", stripehook.ResultRefused, "", 400},
		} {
			if rec := post(hook, c.body, c.header); rec.Code != c.status {
				t.Errorf("%s: answered %d %s", c.result, rec.Code, rec.Body)
			}
			if len(got) != i+1 || got[i].Result != c.result || got[i].EventID != c.id ||
				got[i].Duration <= 0 {
				t.Fatalf("want %s of %q; told %+v", c.result, c.id, got)
			}
		}
		must(t, w.host.Close())
		if rec := post(hook, invoice("evt_4"), sign(invoice("evt_4"), secret, noon)); rec.Code !=
			http.StatusServiceUnavailable || got[len(got)-1].Result != stripehook.ResultRetry {
			t.Errorf("answered %d; told %+v", rec.Code, got[len(got)-1])
		}
	})
}
