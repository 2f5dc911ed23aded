// Machine files: what they say, and what no machine says.
#include "machine/machine.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "model/model.h"

namespace helix {
namespace {

Json h200() { return read_machine("h200-sxm").document; }

std::string refusal(const std::function<void(Json&)>& change) {
  Json document = h200();
  change(document);
  try {
    parse_machine(parse_json("m.json", document.dump()));
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

TEST(Machine, PresetsAreReadAndSayWhereEachNumberComesFrom) {
  const std::vector<std::string> names = machine_names();
  for (const char* name : {"b200", "gb200-nvl72", "gb300-nvl72", "h100-sxm", "h200-sxm"})
    EXPECT_NE(std::ranges::find(names, name), names.end()) << name;
  for (const std::string& name : names) {
    const Machine m = read_machine(name);
    EXPECT_EQ(m.name, name);
    const bool calibrated = m.document.contains("calibration");  // it has no data sheet's numbers
    for (const MachineNumber& number : machine_numbers()) {
      const auto said = m.provenance.find(number.key);
      ASSERT_NE(said, m.provenance.end()) << name << " " << number.key;
      EXPECT_GT(said->second.source.size(), 3U) << name << " " << number.key;
      EXPECT_EQ(number.peak && m.gpu && !calibrated, said->second.basis == Basis::data_sheet)
          << name << " " << number.key;
    }
  }
  const Machine m = read_machine("h200-sxm");
  EXPECT_EQ(m.read_gb_per_s, 4800);
  EXPECT_EQ(m.product_tflops[static_cast<size_t>(Format::fp8)], 989.4);
  EXPECT_NEAR(m.usable_bytes(), 141e9 * 0.95, 1);
}

TEST(Machine, ImpossibleNumbersAreRefusedWithTheirPlace) {
  struct Wrong {
    const char* part;
    const char* key;
    double value;
  };
  for (const Wrong& w :
       {Wrong{"factors", "kv_read_efficiency", 1.01}, Wrong{"factors", "product_efficiency", 0},
        Wrong{"peaks", "read_gb_per_s", 0}, Wrong{"peaks", "link_gb_per_s", -1},
        Wrong{"factors", "kernel_us", -0.1}, Wrong{"factors", "exchange_us", -5},
        Wrong{"factors", "memory_reserve", 1}}) {
    const std::string text = refusal([&](Json& m) { m[w.part][w.key]["value"] = w.value; });
    EXPECT_NE(text.find(std::string("m.json: /") + w.part + "/" + w.key + "/value: "),
              std::string::npos)
        << text;
  }
}

TEST(Machine, KeysAreStrict) {
  const auto has = [](const std::string& text, const char* words) {
    EXPECT_NE(text.find(words), std::string::npos) << text;
  };
  has(refusal([](Json& m) { m["factors"].erase("kernel_us"); }), "\"kernel_us\"");
  has(refusal([](Json& m) { m["factors"]["kernel_ms"] = 1; }), "did you mean \"kernel_us\"");
  has(refusal([](Json& m) { m["peaks"]["memory_gb"] = 141; }), "/peaks/memory_gb");
  has(refusal([](Json& m) { m["peaks"]["memory_gb"]["from"] = "guessed"; }), "\"data_sheet\"");
  has(refusal([](Json& m) { m["peaks"]["memory_gb"]["source"] = ""; }), "source");
  has(refusal([](Json& m) { m["peaks"]["product_tflops"]["value"].erase("fp8"); }), "\"fp8\"");
  has(refusal([](Json& m) { m["processor"] = "tpu"; }), "\"gpu\"");
  has(refusal([](Json& m) { m["domain_ranks"] = 0; }), "/domain_ranks");
  has(refusal([](Json& m) { m["library_rows"] = -1; }), "/library_rows");
  has(refusal([](Json& m) {
        m["covers"]["attention"] = {
            {"value", {{"fixed_us", -1}}}, {"from", "measured"}, {"source", "here"}};
      }),
      "/covers/attention/value");
  has(refusal([](Json& m) {
        m["covers"]["attention"] = {{"value",
                                     {{"fixed_us", 1},
                                      {"read_efficiency", 1},
                                      {"compute_efficiency", 1},
                                      {"shapes", {{2, 1, 100, 1}}}}},
                                    {"from", "measured"},
                                    {"source", "here"}};
      }),
      "/covers/attention/value/shapes/0");
}

TEST(Machine, SchemaHasTheKeysThatAreRead) {
  const Json schema = read_json(configs_folder() + "/machine.schema.json").json();
  std::set<std::string> known, read;
  for (const char* part : {"peaks", "factors"}) {
    const Json& properties = schema["properties"][part]["properties"];
    for (const auto& [key, value] : properties.items()) known.insert(key);
    EXPECT_EQ(properties.size(), schema["properties"][part]["required"].size());
  }
  for (const MachineNumber& number : machine_numbers()) read.insert(std::string(number.key));
  read.insert({"product_tflops", "attention_tflops"});
  EXPECT_EQ(known, read);
}

TEST(Machine, AnUnknownNameGetsTheNearest) {
  try {
    read_machine("gb300-nvl27");
    FAIL();
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean \"gb300-nvl72\"?"), std::string::npos)
        << error.what();
  }
  EXPECT_THROW(read_machine("no/such/file.json"), InputError);
}

}  // namespace
}  // namespace helix
