// Serves the Terraform provider for OpenStack under the tokens of the pulumi_openstack SDK.
//
// It stands in for the published plugin, whose releases cannot be downloaded everywhere. The names of fields
// need no table: the bridge derives the SDK's names from the provider's schema, as it did for the SDK itself.
package main

import (
	_ "embed"
	"encoding/json"
	"fmt"

	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge"
	shimv2 "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfshim/sdk-v2"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	"github.com/terraform-provider-openstack/terraform-provider-openstack/v3/openstack"
)

// version is the SDK's, which the engine asks for; set by the linker.
var version string

//go:embed tokens.json
var table []byte

func provider() (tfbridge.ProviderInfo, error) {
	var names struct{ Resources, DataSources map[string]string }
	if err := json.Unmarshal(table, &names); err != nil {
		return tfbridge.ProviderInfo{}, fmt.Errorf("tokens.json: %w", err)
	}
	info := tfbridge.ProviderInfo{
		P:                       shimv2.NewProvider(openstack.Provider()),
		Name:                    "openstack",
		Version:                 version,
		TFProviderModuleVersion: "v3",
		Resources:               map[string]*tfbridge.ResourceInfo{},
		DataSources:             map[string]*tfbridge.DataSourceInfo{},
	}
	for name, token := range names.Resources {
		info.Resources[name] = &tfbridge.ResourceInfo{Tok: tokens.Type(token)}
	}
	for name, token := range names.DataSources {
		info.DataSources[name] = &tfbridge.DataSourceInfo{Tok: tokens.ModuleMember(token)}
	}
	info.Resources["openstack_orchestration_stack_v1"].Fields = map[string]*tfbridge.SchemaInfo{"outputs": {Name: "StackOutputs"}}
	info.SetAutonaming(255, "-")
	return info, nil
}

func main() {
	info, err := provider()
	if err != nil {
		panic(err)
	}
	tfbridge.Main(info.Name, version, info, fmt.Appendf(nil, `{"name": %q, "version": %q}`, info.Name, version))
}
