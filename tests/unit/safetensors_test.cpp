#include "base/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <numeric>
#include <set>

#include "model/published.h"

namespace helix {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

class SafetensorsTest : public testing::Test {
 protected:
  SafetensorsTest() { fs::create_directories(folder_); }
  ~SafetensorsTest() override { fs::remove_all(folder_); }

  std::string path(const std::string& name) const { return folder_ / name; }
  // Tensors of bytes that count up.
  void write(const std::string& name, const std::vector<SafetensorsWriter::Entry>& entries) const {
    SafetensorsWriter writer(path(name), entries, {{"format", "pt"}});
    for (const auto& entry : entries) {
      int64_t bytes = row_of(entry.dtype).bytes;
      for (const int64_t extent : entry.shape) bytes *= extent;
      std::vector<uint8_t> values(static_cast<size_t>(bytes));
      std::iota(values.begin(), values.end(), uint8_t{0});
      writer.write(std::as_bytes(std::span(values)));
    }
    writer.finish();
  }
  void text(const std::string& name, const std::string& content) const {
    std::ofstream(path(name), std::ios::binary) << content;
  }

  fs::path folder_ = fs::path(testing::TempDir()) / ("safetensors" + std::to_string(getpid()));
};

template <class F>
std::string refusal(F f) {
  try {
    f();
  } catch (const InputError& error) {
    return error.what();
  }
  return "not refused";
}

constexpr Dtype f32_only[] = {Dtype::f32};

TEST_F(SafetensorsTest, ReadsWhatItWrote) {
  write("model.safetensors", {{"b", Dtype::f32, {2, 3}},
                              {"a", Dtype::bf16, {5}},
                              {"none", Dtype::u8, {0, 7}},
                              {"one", Dtype::f8_e4m3, {}}});
  const TensorFolder folder(folder_);
  const StoredTensor& b = folder.tensor("b", {2, 3}, f32_only);
  EXPECT_EQ(b.bytes, 24);
  for (int i = 0; i < 24; ++i) EXPECT_EQ(static_cast<int>(b.data[i]), i);
  EXPECT_TRUE(folder.has("none"));
  EXPECT_FALSE(folder.has("c"));
  EXPECT_FALSE(fs::exists(path("model.safetensors.new")));
}

TEST_F(SafetensorsTest, NamesFileAndTensor) {
  write("model.safetensors", {{"layers.0.w", Dtype::f16, {2, 3}}});
  const TensorFolder folder(folder_);
  EXPECT_THAT(refusal([&] {
                folder.tensor("layers.1.w", {2, 3}, f32_only);
              }),
              AllOf(HasSubstr(folder_.string()), HasSubstr("layers.1.w"), HasSubstr("missing")));
  EXPECT_THAT(refusal([&] {
                folder.tensor("layers.0.w", {3, 2}, f32_only);
              }),
              AllOf(HasSubstr("model.safetensors"), HasSubstr("layers.0.w"), HasSubstr("[2, 3]"),
                    HasSubstr("[3, 2]")));
  EXPECT_THAT(refusal([&] {
                folder.tensor("layers.0.w", {2, 3}, f32_only);
              }),
              AllOf(HasSubstr("layers.0.w"), HasSubstr("F16"), HasSubstr("F32")));
}

TEST_F(SafetensorsTest, OpensShards) {
  write("model-1.safetensors", {{"a", Dtype::f32, {1}}});
  write("model-2.safetensors", {{"b", Dtype::f32, {2}}});
  const std::string index = "model.safetensors.index.json";
  text(index, R"({"metadata": {}, "weight_map": {"a": "model-1.safetensors",
                                                 "b": "model-2.safetensors"}})");
  EXPECT_EQ(TensorFolder(folder_).tensor("b", {2}, f32_only).bytes, 8);
  text(index, R"({"weight_map": {"a": "model-2.safetensors"}})");
  EXPECT_THAT(refusal([&] { TensorFolder{folder_}; }),
              AllOf(HasSubstr("/weight_map/a"), HasSubstr("model-2.safetensors")));
  text(index, R"({"weight_map": {"a": "../a"}})");
  EXPECT_THAT(refusal([&] { TensorFolder{folder_}; }), HasSubstr("files of this folder"));
  text(index, R"({"weight_map": {"a": "model-3.safetensors"}})");
  EXPECT_THAT(refusal([&] { TensorFolder{folder_}; }),
              AllOf(HasSubstr("model-3.safetensors"), HasSubstr("No such file")));
  write("model-2.safetensors", {{"a", Dtype::f32, {1}}, {"b", Dtype::f32, {2}}});
  text(index, R"({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})");
  EXPECT_THAT(refusal([&] { TensorFolder{folder_}; }), AllOf(HasSubstr("/a"), HasSubstr("too")));
}

TEST_F(SafetensorsTest, EveryCutIsSeen) {
  write("whole", {{"a", Dtype::f32, {3}}, {"b", Dtype::f32, {2}}});
  std::ifstream file(path("whole"), std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  for (size_t size = 0; size < bytes.size(); ++size) {
    const auto part = std::as_bytes(std::span(bytes.data(), size));
    EXPECT_THROW(parse_safetensors("cut", part), InputError) << size;
  }
  EXPECT_EQ(parse_safetensors("whole", std::as_bytes(std::span(bytes))).size(), 2U);
}

TEST_F(SafetensorsTest, AnUnfinishedFileIsNotThere) {
  { SafetensorsWriter writer(path("a"), {{"a", Dtype::f32, {3}}}, Json::object()); }
  EXPECT_TRUE(fs::is_empty(folder_));
  SafetensorsWriter writer(path("a"), {{"a", Dtype::f32, {3}}}, Json::object());
  EXPECT_THROW(writer.finish(), RunError);
  EXPECT_THAT(refusal([&] { SafetensorsWriter(path("no/where"), {}, Json::object()); }),
              HasSubstr("No such file"));
}

// Every value of a model has one place in its published tensors.
TEST(Published, CoversEachModel) {
  for (const std::string& name : preset_names()) {
    const Model model = read_model(preset_path(name));
    int64_t values = 0;
    std::set<std::string> names;
    for (const Published& t : published_tensors(model)) {
      EXPECT_TRUE(names.insert(t.name).second) << t.name;
      int64_t volume = 1;
      for (const int64_t extent : t.shape) volume *= extent;
      values += volume;
      int64_t part = 1;
      for (const Slice& slice : published_part(model, t.weight, t.part)) part *= slice.count;
      if (t.weight == W::uk) part += part / model.attention.nope * model.attention.v;
      EXPECT_EQ(volume, part) << t.name;
    }
    EXPECT_EQ(values, parameters(model)) << name;
    EXPECT_EQ(published_config(model, {})["hidden_size"], model.hidden);
  }
}

}  // namespace
}  // namespace helix
